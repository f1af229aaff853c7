"""Data, buffers and flags for short runs, shared by the tests of the published scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pydistill.compat import buffer
from tests.helpers.blobs import blobs

NETWORK = "convnet2-w4"
DATA = ("--dataset", "tensors", "--data_path", "blobs.npz", "--model", NETWORK)
RUN = (
    *DATA,
    *("--syn_steps", "2", "--expert_epochs", "2", "--max_start_epoch", "2", "--lr_img", "1", "--lr_teacher", "0.1"),
    *("--Iteration", "4", "--eval_it", "2", "--num_eval", "1", "--epoch_eval_train", "1", "--quiet"),
)
BUFFERS = Path("buffers/tensors") / NETWORK


def make_data() -> None:
    """Write blobs.npz to the current folder."""
    data = blobs()
    arrays = {}
    for split in ("train", "test"):
        images = data.preprocessing.invert(getattr(data, f"{split}_images")).clamp(0, 1)
        arrays |= {f"{split}_images": images.numpy(), f"{split}_labels": getattr(data, f"{split}_labels").numpy()}
    np.savez("blobs.npz", **arrays)


def make_buffers(*flags: str) -> int:
    """Train three experts for four epochs; write two to replay_buffer_0.pt and one to replay_buffer_1.pt."""
    make_data()
    flags = ("--num_experts", "3", "--train_epochs", "4", "--save_interval", "2", "--batch_train", "16", *flags)
    return buffer.main([*DATA, *flags, "--quiet"])
