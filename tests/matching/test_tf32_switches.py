"""The switches of TF32 belong to the user: nothing in the package changes them."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import pydistill
from tests.matching.problems import make_case

SWITCHES = r"allow_tf32\s*=[^=]|fp32_precision\s*=[^=]|set_float32_matmul_precision|[sS]etAllowTF32|setFloat32"


def test_no_source_file_sets_them() -> None:
    package = Path(pydistill.__file__).parent
    sources = [*package.rglob("*.py"), *(package.parent / "csrc").rglob("*.*")]
    assert len(sources) > 100
    assert [path for path in sources if re.search(SWITCHES, path.read_text())] == []
    assert re.search(SWITCHES, "torch.backends.cuda.matmul.allow_tf32 = True")


def test_no_backend_sets_them() -> None:
    def switches() -> tuple[object, ...]:
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        return (
            (matmul.allow_tf32, cudnn.allow_tf32, torch.get_float32_matmul_precision()),
            (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        )

    before = switches()
    case = make_case(steps=2).to(torch.float32)
    for backend in ("fused", "torch", "autograd"):
        case.run(backend)
    assert switches() == before
