"""Evaluate a distilled set: the test accuracy of fresh networks trained on it, and baselines."""
