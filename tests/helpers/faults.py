"""Run commands in children, in each of which one call that changes a file fails.

    LD_PRELOAD=faults.so python -m tests.helpers.faults FOLDER

`experts`, `distill` and a `distill` that resumes a stopped run are run undisturbed, then once for each sampled call and
fault, and again without a fault. Prints the outcomes as JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from pydistill import cli
from pydistill.data import DataSettings
from tests.compat.scripts import make_data
from tests.helpers.small_runs import recipe

# Per fault: the error's number (0: killed), whether all later calls fail too, and the number of calls sampled.
FAULTS = {
    "kill -9": (0, False, 6),
    "EIO": (errno.EIO, False, 3),
    "ENOSPC": (errno.ENOSPC, True, 2),
    "EMFILE": (errno.EMFILE, False, 1),
}
NEVER = -1


def run(words: list[str], folder: Path, at: int = NEVER, error: int = 0, lasting: bool = False) -> tuple[int, str, str]:
    """Run a command in a child whose call number `at` in `folder` fails; returns its status, stderr and calls."""
    said = folder.with_suffix(".stderr")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            shim = ctypes.CDLL(None)
            shim.faults_calls.restype = ctypes.c_char_p
            shim.faults_arm(os.fsencode(f"{folder}/"), ctypes.c_long(at), error, lasting)
            status = cli.main(words)
            os.write(writing, shim.faults_calls())
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, encoding="ascii") as pipe:
        calls = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.read_text(), calls


def sampled(calls: str, fault: str, count: int, chance: random.Random) -> Iterator[int]:
    """Calls to fail, spread over all of them; EMFILE comes of opening alone."""
    candidates = [number for number, kind in enumerate(calls) if fault != "EMFILE" or kind == "o"]
    for part in range(count):
        yield candidates[int((part + chance.random()) * len(candidates) / count)]


def main(out: Path) -> None:
    """Run each command with each fault at sampled calls."""
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # pictures take long
    os.chdir(out)
    make_data()
    settings = DataSettings("tensors", path=str(out / "blobs.npz"))
    work = replace(recipe(evaluate_every=4, checkpoint_every=2), data=settings)
    (out / "recipe.json").write_text(json.dumps(work.as_dict()))
    config = ["--config", str(out / "recipe.json"), "--quiet", "--out"]
    experts = ["experts", *config]
    distill = ["distill", "--experts", str(out / "experts"), "--log.tensorboard", "false", "--resume", *config]
    for words, name in ((experts, "experts"), (distill, "distill")):
        if cli.main([*words, str(out / name)]) != 0:  # in this process, so that the children find all modules imported
            raise SystemExit(f"{name} failed")
    if len(os.listdir("/proc/self/task")) > 1:
        raise SystemExit("the process has threads, which its children would not have")
    stopped = out / "stopped"
    _, _, calls = run([*distill, str(out / "counted")], out / "counted")
    run([*distill, str(stopped)], stopped, at=2 * len(calls) // 3)

    chance, rows = random.Random(1), []
    for kind, words in (("experts", experts), ("distill", distill), ("resumed", distill)):

        def attempt(name: str, *fault: int, kind: str = kind, words: list[str] = words) -> tuple[Path, int, str, str]:
            folder = out / f"{kind}-{name}"
            if kind == "resumed" and not folder.exists():
                shutil.copytree(stopped, folder)
            return folder, *run([*words, str(folder)], folder, *fault)

        *_, calls = attempt("counted")
        for fault, (error, lasting, count) in FAULTS.items():
            for at in sampled(calls, fault, count, chance):
                name = f"{fault.replace(' ', '')}-{at}"
                folder, status, said, _ = attempt(name, at, error, lasting)
                _, status_again, said_again, _ = attempt(name)
                row = {"kind": kind, "fault": fault, "call": calls[at], "status": status, "stderr": said}
                rows.append(row | {"folder": str(folder), "status again": status_again, "stderr again": said_again})
    print(json.dumps(rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
