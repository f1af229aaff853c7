"""A small distillation script in the manner of the published ones, before and after `pydistill.match`."""
