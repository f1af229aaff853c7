"""pydistill: dataset distillation by trajectory matching."""
