"""Train networks: the loop that experts and evaluations share, and the experts."""
