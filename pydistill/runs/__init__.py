"""A run in its folder: loop, checkpoints, evaluation, logs, report, plan."""
