"""Test accuracy of fresh networks, and baselines."""
