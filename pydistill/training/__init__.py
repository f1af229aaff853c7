"""Training networks on real data, and experts."""
