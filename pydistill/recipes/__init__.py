"""Recipes, which hold all settings of a run, and the presets."""
