"""Settings shared by all tests."""

from __future__ import annotations

import os

import torch

# The tests' problems are tiny: a second thread costs more than it does, and everything waits when the cores are busy.
# The processes that tests start inherit it: sums over other numbers of threads differ in their last bits.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
