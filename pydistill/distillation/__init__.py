"""The outer loop: methods, settings, the distiller, its optimiser and guard."""
