"""Bare training on a distilled set with PyTorch alone: python train_with_torch_alone.py distilled.safetensors

All images in one batch, at the set's learning rate, for as many epochs as its evaluation has. Batch size, schedule and
augmentation of the evaluation, which decide how good a network becomes, are in about["evaluation"], and not here.
"""

import json
import math
import operator
import pathlib
import sys

import torch

raw = bytearray(pathlib.Path(sys.argv[1]).read_bytes())
begin = 8 + int.from_bytes(raw[:8], "little")  # a safetensors file: a length, JSON of that length, the tensors
entries = json.loads(raw[8:begin])
about = json.loads(entries["__metadata__"]["pydistill.artefact"])
kinds = {"F32": torch.float32, "I64": torch.int64}
stored = entries["images"], entries["labels"]
images, labels = (
    torch.frombuffer(raw[begin:], dtype=kinds[kind], count=math.prod(shape), offset=at).reshape(shape)
    for kind, shape, (at, _) in map(operator.itemgetter("dtype", "shape", "data_offsets"), stored)
)
names = about["provenance"]["dataset"]["classes"]
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), len(names)))
optimiser = torch.optim.SGD(model.parameters(), about["lr"], momentum=0.9)
for _ in range(about.get("evaluation", {}).get("training", {}).get("epochs", 1000)):
    optimiser.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimiser.step()
print(f"{len(images)} images of {', '.join(names)}: loss {loss.item():.4f}")
