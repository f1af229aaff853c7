"""Run the commands of a page's bash block in a folder, in this process where it can, on data made up for it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pydistill.cli import main
from tests.docs.doc_blocks import ROOT, BlockOptions, command_lines

# Flags that make a published recipe small; they follow the flags of the page.
SMALL = [
    "--data.zca=false",
    "--model.width=4",
    "--model.depth=1",
    "--expert.count=2",
    "--expert.training.epochs=4",
    "--distill.iterations=2",
    "--distill.ipc=1",
    "--distill.batch_size=null",
    "--distill.steps=2",
    "--distill.expert_epochs=2",
    "--distill.max_start=2",
    "--distill.evaluate_every=0",
    "--evaluation.repeats=2",
    "--evaluation.training.epochs=2",
    "--evaluation.full_epochs=1",
]
TAKES_A_RECIPE = ("experts", "distill", "plan")
SHRUNK = {
    **dict.fromkeys(TAKES_A_RECIPE, SMALL),
    "evaluate": ["--repeats=1", "--epochs=2"],
    "score": ["--repeats=1", "--epochs=2"],
}
# The pages' names of a command's inputs; a command itself makes the name behind --out.
CALLED = {"DATA": "pictures", "EXPERTS": "experts", "CONVEX": "convexified", "RUN": "run", "SET": "set"}
FOR_A_SHELL = re.compile(r"[|<>;&$`*]")
SERVES_WITHIN_SECONDS = 60.0
NOT_RUN = ("benchmarks.",)  # measurements: their flags are checked


def make_pictures(folder: Path, classes: int = 10) -> None:
    """An image folder: of each class two training pictures 3×32×32 and one for the test, of the digit it ends in."""
    digits = load_digits()
    for label in range(classes):
        images = digits.images[digits.target == label % 10]
        for part, pictures in (("train", images[:2]), ("test", images[2:3])):
            place = folder / part / f"class{label}"
            place.mkdir(parents=True)
            for number, picture in enumerate(pictures):
                large = np.kron(picture * 15, np.ones((4, 4))).astype(np.uint8)
                Image.fromarray(large).convert("RGB").save(place / f"{number}.png")


@dataclass
class Inputs:
    """Makes the inputs of commands once, and copies of them."""

    folder: Path

    def make(self, kind: str, to: Path) -> None:
        path = self.folder / kind
        if not path.exists():
            _MAKERS[kind](self, path)
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, to)

    def run_of_digits(self, path: Path) -> None:
        self.make("experts", self.folder / "experts-of-the-run")
        flags = ["--experts", str(self.folder / "experts-of-the-run"), "--out", str(path)]
        assert main(["distill", *SMALL, *flags, "--quiet"]) == 0

    def experts_of_digits(self, path: Path) -> None:
        assert main(["experts", *SMALL, "--out", str(path), "--quiet"]) == 0

    def convexified(self, path: Path) -> None:
        self.make("experts", self.folder / "experts-convexified")
        assert main(["convexify", str(self.folder / "experts-convexified"), "--out", str(path), "--quiet"]) == 0

    def distilled_set(self, path: Path) -> None:
        self.make("run", self.folder / "run-of-the-set")
        shutil.copyfile(self.folder / "run-of-the-set" / "distilled.safetensors", path)


_MAKERS = {
    "pictures": lambda inputs, path: make_pictures(path),
    "digits": lambda inputs, path: make_pictures(path),
    "hundred": lambda inputs, path: make_pictures(path, classes=100),
    "experts": Inputs.experts_of_digits,
    "convexified": Inputs.convexified,
    "run": Inputs.run_of_digits,
    "set": Inputs.distilled_set,
}


def run_block(source: str, options: BlockOptions, inputs: Inputs) -> None:
    """Run every command of a block in the working folder; the first that fails is named."""
    for name, kind in options.made.items():
        inputs.make(kind, Path(name))
    for line in command_lines(source):
        words = shlex.split(line, comments=True)
        if words[0] in ("make", "pip") or is_measurement(words):
            check_command(words)
            continue
        make_inputs(words, options, inputs)
        if words[0] == "pydistill" and not FOR_A_SHELL.search(line.split("#")[0]):
            assert status_of(shrunk(words[1:], options)) == 0, line
        elif words[:2] == ["python", "-m"] and not FOR_A_SHELL.search(line.split("#")[0]):
            run_module(words[2], [*words[3:], *shlex.split(options.appended.get(words[2], ""))])
        elif words[0] == options.server:
            open_page([*words, *shlex.split(options.appended.get(words[0], ""))])
        else:
            run_in_a_shell(line)


def status_of(arguments: list[str]) -> object:
    """Return the exit status of `pydistill ARGUMENTS`, which --help and --print_config end by themselves."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code or 0


def shrunk(words: list[str], options: BlockOptions) -> list[str]:
    """Add the flags that make a command small, and those of the block's comment."""
    command = words[0]
    added = [] if options.as_written else [*SHRUNK.get(command, [])]
    if any(re.fullmatch(r"\w+:\w+", word) for word in words):  # a network of one's own, which has no options
        added = [flag for flag in added if not flag.startswith("--model.")]
    if command in TAKES_A_RECIPE:
        added += shlex.split(options.appended.get("recipe", ""))
    return [*words, *added, *shlex.split(options.appended.get(command, ""))]


def make_inputs(words: Sequence[str], options: BlockOptions, inputs: Inputs) -> None:
    """Make what the command reads under a name of `CALLED` and what is not there yet."""
    for previous, word in zip(["", *words], words, strict=False):
        name = word.split("/")[0]
        if previous == "--out" or Path(name).exists() or name not in CALLED:
            continue
        if previous == "--experts" and words[1] in TAKES_A_RECIPE:  # by the recipe of the command that reads them
            recipe = [word for word in words[2:] if word != "--resume"]
            for flag in ("--experts", "--out", "--log.wandb"):
                if flag in recipe:
                    del recipe[recipe.index(flag) : recipe.index(flag) + 2]
            assert main(shrunk(["experts", *recipe, "--out", name, "--quiet"], options)) == 0
        else:
            inputs.make(CALLED[name], Path(name))


def run_module(module: str, arguments: list[str]) -> None:
    """Run `python -m MODULE ARGUMENTS` in this process."""
    imported = importlib.import_module(module)
    if hasattr(imported, "__path__"):
        imported = importlib.import_module(f"{module}.__main__")
    assert hasattr(imported, "main"), f"{module} has no main"
    assert imported.main(arguments) in (None, 0)


def run_in_a_shell(line: str) -> None:
    """Run a line of bash, in which `pydistill` is this package's."""
    tools = Path("bin-of-the-test").absolute()
    tools.mkdir(exist_ok=True)
    for name, command in (("pydistill", f"{sys.executable} -m pydistill"), ("python", sys.executable)):
        (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tools / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-ec", line], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, f"{line}\n{done.stderr}"


def open_page(words: Sequence[str]) -> None:
    """Start a program of this Python's, open the first page that it says it serves, and stop it."""
    program = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    server = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = threading.Timer(SERVES_WITHIN_SECONDS, server.kill)
    deadline.start()
    lines = []
    try:
        assert server.stdout is not None
        address = None
        while address is None and (line := server.stdout.readline()):
            lines.append(line)
            address = next(iter(re.findall(r"http://\S+", line)), None)
        deadline.cancel()
        assert address is not None, f"{shlex.join(words)} served nothing in time: {''.join(lines)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert answer.status == 200
    finally:
        deadline.cancel()
        server.kill()
        server.communicate()


def is_measurement(words: Sequence[str]) -> bool:
    return words[0].startswith("benchmarks/") or (words[:2] == ["python", "-m"] and words[2].startswith(NOT_RUN))


def check_command(words: Sequence[str]) -> None:
    """Check a command without running it: its target, package, module or script exists and knows the flags."""
    words = list(words)
    while re.fullmatch(r"\w+=\S*", words[0]):  # settings in the environment
        words.pop(0)
    flags = [word.split("=")[0] for word in words if word.startswith("--")]
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(words[1:]) <= set(targets), f"the Makefile lacks one of {words[1:]}"
    elif words[0] == "pip":
        check_extras(words)
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None, f"there is no module {words[2]}"
        known = help_of(words[2]) if flags else ""
        assert all(flag in known for flag in flags), f"{words[2]} does not know one of {flags}"
    elif words[0] == "pydistill":
        listed = re.search(rf"^\s+{words[1]}\b", help_of("pydistill.cli"), re.MULTILINE)
        assert listed, f"there is no command pydistill {words[1]}"
        known = help_of("pydistill.cli", words[1]) if flags else ""
        assert all(flag in known for flag in flags if "." not in flag), f"{words[1]} does not know one of {flags}"
    elif "/" in words[0]:
        known = (ROOT / words[0]).read_text()
        assert all(flag in known for flag in flags), f"{words[0]} does not know one of {flags}"
    else:
        assert shutil.which(words[0]), f"there is no command {words[0]}"


def check_extras(words: Sequence[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        extras = re.fullmatch(r"(?:\.|pydistill)\[([\w,]+)\]", word)
        if extras:
            names = set(extras[1].split(","))
            assert names <= set(project["optional-dependencies"]), f"pyproject.toml lacks an extra of {sorted(names)}"


@functools.cache
def help_of(module: str, *command: str) -> str:
    """Return what `python -m MODULE COMMAND --help` prints."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(sys, "argv", [module, *command, "--help"])
        with contextlib.suppress(SystemExit):
            importlib.import_module(module).main()
    return output.getvalue()
