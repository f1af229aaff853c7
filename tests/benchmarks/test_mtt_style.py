"""The script in the published manner gives the same images before and after its inner loop is handed over."""

from __future__ import annotations

import pytest
import torch

from benchmarks.examples.mtt_style import __main__ as comparison
from benchmarks.examples.mtt_style import after, before
from benchmarks.examples.mtt_style.common import parse

TINY = (
    *("--Iteration", "3", "--num_experts", "1", "--train_epochs", "3", "--max_start_epoch", "2"),
    *("--expert_epochs", "1", "--syn_steps", "4", "--batch_syn", "7", "--width", "4"),
)


@pytest.mark.parametrize("network", ["own", "pydistill"])
def test_same_images(network: str) -> None:
    one = before.main(parse([*TINY, "--double"]))
    other = after.main(parse([*TINY, "--double", "--network", network]))
    assert other["losses"] == pytest.approx(one["losses"], rel=1e-9)
    assert other["lr"] == pytest.approx(one["lr"], rel=1e-9)
    torch.testing.assert_close(other["images"], one["images"], rtol=1e-9, atol=1e-9)
    assert one["lr"] != parse([]).lr_teacher, "the updates must have done something"


def test_the_comparison_prints_a_speed_up(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = comparison.main(TINY, runs=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(seconds) == 3
    assert lines[1].split()[:1] == ["before"]
    losses = [float(line.split()[-1]) for line in lines[1:]]
    assert losses == pytest.approx([losses[0]] * 3, abs=2e-4)
