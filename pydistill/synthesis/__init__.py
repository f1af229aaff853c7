"""What is learned: the synthetic set."""
