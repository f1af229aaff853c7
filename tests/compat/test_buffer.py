"""`buffer.main`: the training of experts and their export, which overwrites no file of others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from pydistill.compat import buffer
from pydistill.compat.flags import buffer_parser
from pydistill.trajectories import TrajectoryStore
from tests.compat.scripts import BUFFERS, make_buffers, names
from tests.helpers.folder_content import content


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--train_epochs", "0"], "--train_epochs must be "),
        (["--mom", "2"], "--mom must be "),
        (["--lr_teacher", "0.5"], "; choose another folder, or give "),
    ],
)
def test_messages_name_the_flags_of_buffer(
    flags: list[str], part: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_buffers(*flags) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize("store", [True, False], ids=["next to our experts", "alone"])
def test_buffers_of_other_programs_are_not_overwritten(
    store: bool, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that replaced ours, and files that another program added."""
    if store:
        shutil.copy(here / BUFFERS / "replay_buffer_0.pt", here / BUFFERS / "replay_buffer_2.pt")
        theirs, flags = here / BUFFERS / "replay_buffer_2.pt", ["--num_experts", "6"]
    else:
        for ours in ("pydistill-experts", "pydistill-exported.json"):
            path = here / BUFFERS / ours
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        theirs, flags = here / BUFFERS / "replay_buffer_0.pt", []
    before = theirs.read_bytes()
    assert make_buffers(*flags) == 2
    assert theirs.name in capsys.readouterr().err
    assert theirs.read_bytes() == before


def test_a_changed_buffer_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / BUFFERS / "replay_buffer_0.pt").write_bytes(b"mine")
    assert make_buffers() == 2
    assert "replay_buffer_0.pt" in capsys.readouterr().err
    assert (here / BUFFERS / "replay_buffer_0.pt").read_bytes() == b"mine"


def test_a_buffer_command_killed_during_its_export_can_be_run_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two files: one is new, the other old, and both are ours."""
    replace, left = Path.replace, [1]

    def stop(self: Path, target: Path) -> Path:
        if self.suffix == ".pt" and not left:
            raise KeyboardInterrupt
        left.clear()
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        assert make_buffers("--num_experts", "4", "--save_interval", "3") == 130
    assert make_buffers("--num_experts", "4", "--save_interval", "3") == 0
    buffers = [torch.load(here / BUFFERS / f"replay_buffer_{index}.pt", weights_only=True) for index in (0, 1)]
    assert [len(experts) for experts in buffers] == [3, 1]


@pytest.mark.parametrize("flags", [("--mom", "0.9"), ("--l2", "0.1"), ("--l2", "0.1", "--decay")])
def test_experts_train_with_momentum_and_weight_decay(flags: tuple[str, ...], here: Path) -> None:
    """The settings are those of PyTorch's SGD, and are recorded in the store."""
    before = torch.load(here / BUFFERS / "replay_buffer_0.pt", weights_only=True)
    other = ["--num_experts", "1", "--buffer_path", "other"]
    if "--decay" in flags:
        assert make_buffers("--num_experts", "1", "--buffer_path", "decayed", "--decay") == 0
        before = torch.load(here / "decayed/tensors/convnet2-w4/replay_buffer_0.pt", weights_only=True)
    assert make_buffers(*other, *flags) == 0
    folder = here / "other/tensors/convnet2-w4"
    after = torch.load(folder / "replay_buffer_0.pt", weights_only=True)
    assert torch.equal(after[0][0][0], before[0][0][0])
    assert not torch.equal(after[0][-1][0], before[0][-1][0])
    training = TrajectoryStore.open(folder / "pydistill-experts").record.training
    expected = (0.9, 0.0) if "--mom" in flags else (0.0, 0.1)
    assert (training["momentum"], training["weight_decay"]) == expected


def test_one_expert_is_reported_in_the_singular(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_buffers("--num_experts", "1") == 0
    assert capsys.readouterr().out.startswith("1 expert in buffers")


def test_a_larger_count_adds_experts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.load(here / BUFFERS / "replay_buffer_0.pt", weights_only=True)
    assert make_buffers("--num_experts", "4") == 0
    assert "4 experts in" in capsys.readouterr().out
    after = [torch.load(here / BUFFERS / f"replay_buffer_{number}.pt", weights_only=True) for number in (0, 1)]
    assert [len(experts) for experts in after] == [2, 2]
    assert torch.equal(after[0][1][4][0], before[1][4][0])


def test_an_export_with_fewer_buffers_removes_the_others(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise their experts would be read twice; also after a kill before they are removed."""
    assert make_buffers("--save_interval", "1") == 0
    assert names(here / BUFFERS) == [f"replay_buffer_{number}.pt" for number in range(3)]
    unlink = Path.unlink

    def stop(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".pt":
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stop)
        assert make_buffers() == 130
    assert make_buffers() == 0
    assert names(here / BUFFERS) == ["replay_buffer_0.pt", "replay_buffer_1.pt"]
    assert [len(torch.load(here / BUFFERS / f"replay_buffer_{n}.pt", weights_only=True)) for n in (0, 1)] == [2, 1]


@pytest.mark.parametrize("about", [[], {"replay_buffer_0.pt": "x"}, {"../mine.pt": []}])
def test_a_damaged_record_of_exports(about: object, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / BUFFERS / "pydistill-exported.json").write_text(json.dumps(about))
    assert make_buffers() == 1
    assert "pydistill-exported.json is damaged" in capsys.readouterr().err


def test_a_changed_buffer_is_not_removed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A buffer that the new export does not write would be removed."""
    (here / BUFFERS / "replay_buffer_1.pt").write_bytes(b"mine")
    assert make_buffers("--save_interval", "3") == 2
    assert "replay_buffer_1.pt" in capsys.readouterr().err
    assert (here / BUFFERS / "replay_buffer_1.pt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--dsa", "False"], "--dsa False is refused"),
        (["--decay", "--mom", "0.9"], "--mom with --decay is refused"),
        (["--save_interval", "0"], "--save_interval must be at least 1"),
    ],
)
def test_wrong_flags_of_buffer(flags: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert buffer.main(flags) == 2
    assert part in capsys.readouterr().err


def test_buffers_are_not_written_through_a_link(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    victim = tmp_path_factory.mktemp("victim")
    (victim / "replay_buffer_0.pt").write_text("precious")
    (here / BUFFERS / ".pydistill-exporting").symlink_to(victim)
    assert make_buffers() == 1
    assert content(victim) == {"replay_buffer_0.pt": b"precious"}


def test_the_defaults_of_other_repositories(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    att, tesla, mtt = (buffer_parser(script) for script in ("att", "tesla", "mtt"))
    assert [parser.parse([]).batch_train for parser in (att, tesla, mtt)] == [512, 256, 256]
    assert [parser.parse([]).data_path for parser in (att, tesla, mtt)] == ["datas", "data", "data"]
    assert [parser.parse([]).save_interval for parser in (att, tesla, mtt)] == [10, 1, 10]
    monkeypatch.setattr(buffer.data, "load", lambda settings, device: pytest.fail(str(settings)))
    assert buffer.main(["--script", "tesla", "--dataset", "ImageNet"]) == 2
    assert "--subset" in capsys.readouterr().err
    with pytest.raises(pytest.fail.Exception, match="path='datas'"):
        buffer.main(["--script", "att"])
    with pytest.raises(pytest.fail.Exception, match="imagenette"):
        buffer.main(["--dataset", "ImageNet"])
    assert "imagenette" in capsys.readouterr().err


def test_flat_experts_by_the_flags_of_ftd(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(here / BUFFERS)
    assert make_buffers("--rho_max", "0.02", "--rho_min", "0.02", "--alpha", "1", "--adaptive", "False") == 0
    store = TrajectoryStore.open(here / BUFFERS / "pydistill-experts")
    assert store.record.training["sharpness"] == {"rho": 0.02, "alpha": 1.0, "adaptive": False}
    capsys.readouterr()
    assert make_buffers("--script", "ftd", "--rho", "0.01", "--buffer_path", "others") == 0
    store = TrajectoryStore.open(here / "others" / BUFFERS.relative_to("buffers") / "pydistill-experts")
    assert store.record.training["sharpness"] == {"rho": 0.01, "alpha": 0.4, "adaptive": True}
    assert "ρ = 0.01" not in capsys.readouterr().err


def test_the_defaults_of_ftd_s_script_are_not_its_paper_s(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(here / BUFFERS)
    assert make_buffers("--script", "ftd") == 0
    assert "its paper has ρ = 0.01" in capsys.readouterr().err
    store = TrajectoryStore.open(here / BUFFERS / "pydistill-experts")
    assert store.record.training["sharpness"] == {"rho": 2.0, "alpha": 0.4, "adaptive": True}


def test_mtt_s_experts_are_not_flat(here: Path) -> None:
    assert TrajectoryStore.open(here / BUFFERS / "pydistill-experts").record.training["sharpness"] is None


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--rho_max", "0.02"], "--rho_max and --rho_min must be equal, not 0.02 and None"),
        (["--script", "ftd", "--rho_max", "0.01"], "--rho_max and --rho_min must be equal, not 0.01 and 2.0"),
        (["--rho", "-1"], "--rho_max must be "),
        (["--rho", "0.1", "--alpha", "-1"], "--alpha must be "),
        (["--script", "datm"], "--script invalid choice"),
    ],
)
def test_wrong_flags_of_flat_experts(
    flags: list[str], part: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_buffers(*flags) == 2
    assert part in capsys.readouterr().err
