"""Train on a distilled set with PyTorch and nothing else: python train_with_torch_alone.py distilled.safetensors"""

import json
import pathlib
import sys

import torch

raw = pathlib.Path(sys.argv[1]).read_bytes()
begin = 8 + int.from_bytes(raw[:8], "little")  # a safetensors file: a length, JSON of that length, the tensors
entries = json.loads(raw[8:begin])
about = json.loads(entries["__metadata__"]["pydistill.artefact"])


def tensor(name: str) -> torch.Tensor:
    dtype, shape, (first, end) = (entries[name][key] for key in ("dtype", "shape", "data_offsets"))
    kind = {"F32": torch.float32, "I64": torch.int64}[dtype]
    return torch.frombuffer(bytearray(raw[begin + first : begin + end]), dtype=kind).reshape(shape)


images, labels, how = tensor("images"), tensor("labels"), about["evaluation"]["training"]
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), len(about["class_names"])))
optimiser = torch.optim.SGD(model.parameters(), about["lr"], how["momentum"], weight_decay=how["weight_decay"])
for _ in range(how["epochs"]):  # augment the images here as about["augmentation"] says
    optimiser.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimiser.step()
print(f"{len(images)} images of {', '.join(about['class_names'])}: loss {loss.item():.4f}")
