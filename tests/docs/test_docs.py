"""README and docs: examples run, commands and code exist, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pydistill
from pydistill.distillation.methods import METHODS
from pydistill.recipes.recipe import preset_names, preset_path
from pydistill.recipes.yaml import read_yaml
from pydistill.runs import demo
from tests.docs.doc_blocks import PAGES, ROOT, Block, all_blocks, blocks, files_of, read_comment
from tests.docs.doc_commands import Inputs, check_command, run_block
from tests.helpers.fake_wandb import FakeWandb

# The first lines of a program, for blocks that are a part of one.
SETUPS = {
    "problem": """
import math
import torch
import torch.nn.functional as F
from torch.func import functional_call
import pydistill
from pydistill.nn import ConvNet, flatten, layout_of

torch.manual_seed(0)
model = ConvNet(in_channels=1, num_classes=3, image_size=8, width=4, depth=1).double()
start = flatten(model).detach().requires_grad_()
target = start.detach() + 0.1 * torch.randn_like(start)
pictures = torch.randn(3, 1, 8, 8, dtype=torch.float64, requires_grad=True)
lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
batches = [(pictures, torch.arange(3))] * 4
layout = layout_of(model)

def split(theta):
    pieces = theta.split([math.prod(shape) for shape in layout.shapes])
    return {name: piece.view(shape) for name, piece, shape in zip(layout.names, pieces, layout.shapes)}
""",
}
LANGUAGES = {"python", "bash", "text", "json", "yaml", "mermaid"}  # of which the first two are run


def run_python(block: Block) -> dict[str, object]:
    """Run a block after its set-up; return its names."""
    names: dict[str, object] = {"__name__": "__main__"}
    if block.options.setup is not None:
        exec(compile(SETUPS[block.options.setup], block.options.setup, "exec"), names)
    exec(compile("\n" * block.line + block.source, str(block.page), "exec"), names)
    return names


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder with its own cache and a short demo; METHODS is restored afterwards."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("PYDISTILL_CACHE", str(tmp_path / "cache"))
    complete_recipe = demo.demo_recipe

    def small_recipe(method: str, seed: int) -> object:
        recipe = complete_recipe(method, seed)
        training = replace(recipe.expert.training, epochs=4)
        return replace(
            recipe,
            model=replace(recipe.model, width=4),
            expert=replace(recipe.expert, count=2, training=training),
            distill=replace(recipe.distill, iterations=2, steps=2, expert_epochs=2, max_start=2),
            evaluation=replace(
                recipe.evaluation,
                repeats=1,
                training=replace(recipe.evaluation.training, epochs=2),
                full_epochs=1,
            ),
        )

    monkeypatch.setattr(demo, "demo_recipe", small_recipe)
    methods = dict(METHODS)
    yield work
    METHODS.clear()
    METHODS.update(methods)


@pytest.mark.parametrize("block", all_blocks("python"), ids=lambda block: block.name)
def test_python(block: Block, folder: Path, inputs: Inputs) -> None:
    for name, kind in block.options.made.items():
        inputs.make(kind, folder / name)
    names = run_python(block)
    tensors = [value for value in names.values() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    leaves = [tensor for tensor in tensors if tensor.is_leaf and tensor.requires_grad]
    assert all(leaf.grad is not None for leaf in leaves if ".backward()" in block.source)


@pytest.mark.parametrize("block", all_blocks("bash"), ids=lambda block: block.name)
def test_bash(block: Block, folder: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in files_of(block.page).items():
        (folder / name).write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
    if block.options.setup == "wandb":
        stand_in_for_wandb(folder, monkeypatch)
    run_block(block.source, block.options, inputs)


def stand_in_for_wandb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For wandb: a package that keeps a run where wandb does, and a program that takes such a run and sends nothing."""
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())
    program = folder / "bin" / "wandb"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ $# = 2 ] && [ "$1" = sync ] && [ -d "$2" ]\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def test_the_readme_s_loop_is_what_match_computes(folder: Path) -> None:
    ours, published = [block for block in blocks(ROOT / "README.md") if block.options.setup == "problem"]
    one, other = run_python(ours), run_python(published)
    assert isinstance(other["loss"], torch.Tensor)
    other["loss"].backward()
    torch.testing.assert_close(one["m"].loss, other["loss"], rtol=1e-12, atol=0)  # type: ignore[attr-defined]
    for name in ("pictures", "lr"):
        torch.testing.assert_close(one[name].grad, other[name].grad, rtol=1e-9, atol=1e-14)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_code_is_in_a_block_that_is_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    fenced = blocks(page)
    assert len(re.findall("^ *```", text, re.MULTILINE)) == 2 * len(fenced), "a fence that is indented or left open"
    assert {block.language for block in fenced} <= LANGUAGES
    unfenced = re.sub("^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    command = r"^(?: {4}|\t)(?:\$ |[A-Z_]+=\S+ )*(?:pydistill|python|pip|make|import|from) .*"
    commands = re.findall(command, unfenced, re.MULTILINE)
    assert not commands


def test_a_wrong_comment_is_refused() -> None:
    parts = ["DATA=pictures", 'append "--expert.count 1"', 'append evaluate "--epochs 3"', "serves pages"]
    options = read_comment(", ".join(parts))
    assert options.made == {"DATA": "pictures"}
    assert options.appended == {"recipe": "--expert.count 1", "evaluate": "--epochs 3"}
    assert options.server == "pages"
    for wrong in ("please", "DATA=pictures; with problem", "append nothing"):
        with pytest.raises(ValueError, match="does not know"):
            read_comment(wrong)


@pytest.mark.parametrize(
    "command",
    [
        "make coffee",
        "pip install pydistill[coffee]",
        "python -m benchmarks.coffee",
        "python -m benchmarks.report --coffee",
        "pydistill show --coffee RUN",
        "benchmarks/run_gpu.sh OUT --coffee",
        "no-such-command-anywhere",
    ],
)
def test_a_command_that_is_not_there_is_refused(command: str) -> None:
    with pytest.raises(AssertionError):
        check_command(command.split())


def test_a_command_that_fails_is_reported(folder: Path, inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("pydistill show nowhere\n", "echo something | grep else\n", "python -c 0\n"):
        with pytest.raises(AssertionError):
            run_block(source, read_comment("serves python"), inputs)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_waits_for_its_numbers(page: Path) -> None:
    assert not re.findall(r"\b[A-Z]+_TABLE\b|\bMEASURED\b|\bTODO\b", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    text = re.sub("^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = [
        re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8"))
    here = [(page.parent / path if path else page, anchor) for path, anchor in targets if "://" not in path]
    assert not [str(path) for path, _ in here if not path.exists()]
    to_headings = [(path, anchor) for path, anchor in here if path.suffix == ".md" and anchor]
    assert not [f"{path.name}#{anchor}" for path, anchor in to_headings if anchor not in anchors(path)]


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        waiting += [page.parent / link for link in links if "://" not in link]
    assert not [str(page.relative_to(ROOT)) for page in PAGES if page.resolve() not in reached]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"`([\w/]+)\.\{(\w+),(\w+)\}`", r"`\1.\2` `\1.\3`", text)  # `csrc/cpu/OP.{h,cpp}` is two
    files = re.findall(r"`((?:pydistill|tests|benchmarks|csrc|docs)/[\w./-]+\.(?:py|h|cpp|cu|md|sh|csv))`", text)
    # X, Y, DECODER and COMMAND stand for any name, OP for any op
    placeholders = {"X", "Y", "DECODER", "COMMAND"}
    files = [file for file in files if not placeholders & set(re.split("[/._]", file))]
    files = [file.replace("OP", "softmax_xent") for file in files]
    assert not [file for file in files if not (ROOT / file).is_file()]
    # In tables of terms a file is followed by names in it: `pydistill/matching/loss.py` `student_loss`, `matching_loss`
    for file, names in re.findall(r"`(pydistill/[\w/]+\.py)`((?:,? `\w+`)+)", text):
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^(?:class|def) {name}\b|^{name}\b", source, re.MULTILINE), f"{file} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_a_sentence_are_there(page: Path) -> None:
    text = re.sub("^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    commands = re.findall(r"`((?:make|pydistill|python -m) [^`…]*)`", " ".join(text.split()))
    for command in commands:
        words = shlex.split(re.split(r"[|\[;]", command)[0])
        if not words[1].isupper():  # `pydistill COMMAND --help` is about any
            check_command(words)


@pytest.mark.parametrize("method", ["att", "datm", "ftd", "mct", "mtt"])
def test_recipes_on_a_page_are_the_presets(method: str) -> None:
    rows = re.findall(
        rf"^\| `({method}/[\w-]+)` \| (.*) \|$", (ROOT / f"docs/methods/{method}.md").read_text(), re.MULTILINE
    )
    assert {name for name, _ in rows} == {name for name in preset_names() if name.startswith(f"{method}/")}
    for name, row in rows:
        preset = read_yaml(preset_path(name).read_text())
        assert row.split(" | ") == (cells_of_datm if method == "datm" else cells_of)(preset), name


def cells_of(preset: dict[str, Any]) -> list[str]:
    """Return the cells of a preset's row on its method's page."""
    distill = preset["distill"]
    cells = [f"{distill[key]}" for key in ("steps", "expert_epochs", "max_start")]
    cells += [f"{float(distill[key]):g}" for key in ("lr_image", "lr_lr", "lr_init")]
    cells += ["yes" if preset["data"]["zca"] else "no", f"{distill.get('batch_size', 'all')}"]
    cells += [f"{preset['expert']['training']['sharpness']['alpha']}"] if distill["method"] == "ftd" else []
    columns = {"att": ["ema"], "ftd": ["ema"], "mct": ["waypoints"], "mtt": []}
    cells += [f"{distill[key]}" for key in columns[distill["method"]]]
    return [*cells, f"{distill['iterations']:,}"]


def cells_of_datm(preset: dict[str, Any]) -> list[str]:
    """Return the cells of a preset's row on DATM's page."""
    distill = preset["distill"]
    end = f"{distill['max_start']}"
    if "grow_from" in distill:
        end = f"{distill['grow_from']} → {end} in {distill['grow_iterations']:,}"
    cells = [f"{distill[key]}" for key in ("steps", "expert_epochs", "min_start")]
    cells += [end, *(f"{float(distill[key]):g}" for key in ("lr_image", "lr_lr", "lr_label"))]
    return [*cells, f"{distill.get('batch_size', 'all')}", distill["initialisation"]]


def test_the_citation_names_this_version_and_every_method_s_paper() -> None:
    citation = read_yaml((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == pydistill.__version__
    titles = {reference["title"] for reference in citation["references"]}
    for method in METHODS:
        page = " ".join((ROOT / f"docs/methods/{method}.md").read_text(encoding="utf-8").split())
        paper = re.search(r"\*([^*]+)\*", page)
        assert paper is not None
        assert paper[1] in titles
