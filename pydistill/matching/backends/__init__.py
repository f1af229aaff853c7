"""The backends of `match`: autograd, torch and fused."""
