"""The parameters that a distillation learns: the synthetic set."""
