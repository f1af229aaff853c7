"""Private helpers: files, memory, progress, formatting."""
