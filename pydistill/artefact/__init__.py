"""Distilled sets: their file, torch data set, figures, and exchange with other tools."""
