"""A linear classifier of a distilled set, with PyTorch alone: python train_with_torch_alone.py distilled.safetensors

Gradient descent on all images at the learning rate of the set. A network learns from it likewise; batch size, schedule
and augmentation of its own evaluation, which decide how good it becomes, are in about["evaluation"].
"""

import json
import sys
from pathlib import Path

import torch

raw = bytearray(Path(sys.argv[1]).read_bytes())  # a safetensors file: a length, JSON of that length, the tensors
head = json.loads(raw[8 : (begin := 8 + int.from_bytes(raw[:8], "little"))])
about, kinds = json.loads(head["__metadata__"]["pydistill.artefact"]), {"F32": torch.float32, "I64": torch.int64}


def tensor(dtype: str, shape: list[int], data_offsets: list[int]) -> torch.Tensor:
    return torch.frombuffer(raw[begin:][slice(*data_offsets)], dtype=kinds[dtype]).view(shape)


images, labels = tensor(**head["images"]), tensor(**head["labels"])
weights = torch.zeros(images[0].numel(), len(about["class_names"]), requires_grad=True)
for _ in range(1000):
    loss = torch.nn.functional.cross_entropy(images.flatten(1) @ weights, labels)
    weights = weights - about["lr"] * torch.autograd.grad(loss, weights)[0]

print(f"{len(images)} images of {', '.join(about['class_names'])}: loss {loss:.4f}")
