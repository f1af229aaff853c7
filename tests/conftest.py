"""Settings shared by all tests."""

from __future__ import annotations

import torch

# The tests' problems are tiny: a second thread costs more than it does, and everything waits when the cores are busy.
torch.set_num_threads(1)
