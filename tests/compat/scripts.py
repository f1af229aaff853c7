"""Data, buffers and flags for short runs, shared by the tests of the published scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pydistill.compat import buffer
from tests.helpers.blobs import blobs

NETWORK = "convnet2-w4"
DATA = ("--dataset", "tensors", "--data_path", "blobs.npz", "--model", NETWORK)
RUN = (
    *DATA,
    *("--syn_steps", "2", "--expert_epochs", "2", "--max_start_epoch", "2", "--lr_img", "1", "--lr_teacher", "0.1"),
    *("--Iteration", "4", "--eval_it", "2", "--num_eval", "1", "--epoch_eval_train", "1", "--quiet"),
)
SHORT = (*RUN, "--Iteration", "1", "--eval_it", "1")
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


def store_of(here: Path, published: bool) -> Path:
    """Return the store of imported experts: of MCT's waypoint files or of replay buffers."""
    return here / BUFFERS / ("pydistill-waypoint_ip3" if published else "pydistill-replay")


def names(folder: Path) -> list[str]:
    """Return the sorted names of the folder's tensor files."""
    return sorted(file.name for file in folder.glob("*.pt"))


def read(file: Path) -> torch.Tensor:
    """Read a file of one tensor."""
    tensor = torch.load(file, weights_only=True)
    assert isinstance(tensor, torch.Tensor)
    return tensor
