"""Commands in this process, and the flags of a small run."""

from __future__ import annotations

from pydistill.cli import main

WHERE = ["--experts", "x", "--out", "y"]
SMALL = [
    "--model.width=4",
    "--model.depth=1",
    "--expert.count=2",
    "--expert.training.epochs=4",
    "--expert.training.dsa=null",
    "--distill.iterations=4",
    "--distill.steps=2",
    "--distill.expert_epochs=2",
    "--distill.max_start=2",
    "--distill.checkpoint_every=2",
    "--evaluation.repeats=2",
    "--evaluation.training.epochs=3",
    "--evaluation.full_epochs=4",
]


def run(*arguments: object) -> int:
    """Run a command; return its exit status."""
    return main([str(argument) for argument in arguments])
