"""Bare training on a distilled set with PyTorch alone: python train_with_torch_alone.py distilled.safetensors

All images in one batch, at the set's learning rate, for as many epochs as its evaluation has. Batch size, schedule and
augmentation of the evaluation, which decide how good a network becomes, are in about["evaluation"], and not here.
"""

import json
import sys
from pathlib import Path

import torch

raw = bytearray(Path(sys.argv[1]).read_bytes())  # a safetensors file: a length, JSON of that length, the tensors
entries = json.loads(raw[8 : (begin := 8 + int.from_bytes(raw[:8], "little"))])
about = json.loads(entries["__metadata__"]["pydistill.artefact"])


def tensor(name: str) -> torch.Tensor:
    dtype, shape, (first, end) = (entries[name][key] for key in ("dtype", "shape", "data_offsets"))
    kind = torch.int64 if dtype == "I64" else torch.float32
    return torch.frombuffer(raw[begin + first : begin + end], dtype=kind).reshape(shape)


images, labels, names = tensor("images"), tensor("labels"), about["provenance"]["dataset"]["classes"]
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), len(names)))
optimiser = torch.optim.SGD(model.parameters(), about["lr"], momentum=0.9)
for _ in range(about.get("evaluation", {}).get("training", {}).get("epochs", 1000)):
    optimiser.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimiser.step()
print(f"{len(images)} images of {', '.join(names)}: loss {loss.item():.4f}")
