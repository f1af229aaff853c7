"""Students and evaluation networks, and flat parameter vectors."""
