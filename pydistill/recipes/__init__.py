"""A run's settings in one object and one file; the presets."""
