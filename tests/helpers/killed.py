"""A process that kills its children.

    python -m tests.helpers.killed distillation|convexified|experts EXPERTS FOLDER

It does the work once undisturbed, which imports all modules, starts no threads, and forks a child for each attempt. A
child works until it is done or killed, at a random time or at a random moment of a write; the next one resumes its
work. Prints as JSON the finished folders, and how often a child was killed at each kind of moment.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydistill.data import DsaSettings
from pydistill.runs.folder import RunFolder
from pydistill.runs.run import run_distillation
from pydistill.training.experts import train_experts
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import EXPERT, MODEL, recipe

KILLS = 10
DATA = blobs()


def distil(experts: Path, folder: Path) -> None:
    """Start or resume a small distillation."""
    work = recipe(iterations=8, evaluate_every=4, checkpoint_every=2, batch_size=3)
    run_distillation(work, DATA, TrajectoryStore.open(experts), folder, resume=True)


def distil_convexified(experts: Path, folder: Path) -> None:
    """Start or resume a small distillation by MCT from recorded experts, with learned labels and augmentation."""
    settings: dict[str, Any] = {"method": "mct", "waypoints": 3, "labels": "learned", "dsa": DsaSettings()}
    work = recipe(iterations=8, evaluate_every=4, checkpoint_every=2, batch_size=3, **settings)
    run_distillation(work, DATA, TrajectoryStore.open(experts), folder, resume=True)


def train(experts: Path, folder: Path) -> None:
    """Train a few small experts, or those that are missing."""
    train_experts(DATA, MODEL, EXPERT, folder)


WORKS = {"distillation": distil, "convexified": distil_convexified, "experts": train}


class KillAtMoment:
    """Kills the process at its nth moment of writing; writes the moments to `pipe`."""

    def __init__(self, after: int | None, pipe: int) -> None:
        self.left, self.pipe = after, pipe
        self.flush, self.rename, self.cut, self.append = os.fsync, os.replace, os.ftruncate, RunFolder.append_metrics
        os.fsync, os.replace, os.ftruncate = self.fsync, self.replace, self.truncate  # type: ignore[assignment]
        RunFolder.append_metrics = lambda folder, record: self.append_metrics(folder, record)  # type: ignore[method-assign]

    def moment(self, name: str, leave: Callable[[], object] = lambda: None) -> None:
        """Pass a moment of writing; at the last one, call `leave` and kill the process."""
        if self.left == 0:
            leave()
            os.write(self.pipe, f"{name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        if self.left is None:
            os.write(self.pipe, f"{name}\n".encode())
        else:
            self.left -= 1

    def fsync(self, descriptor: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        if name.endswith(".tmp"):
            half = os.fstat(descriptor).st_size // 2
            self.moment(f"half of {name.split('.')[1]}", lambda: self.cut(descriptor, half))
        self.flush(descriptor)

    def replace(self, source: str | Path, target: str | Path) -> None:
        self.moment(f"before {Path(target).stem}")
        self.rename(source, target)
        self.moment(f"after {Path(target).stem}")

    def truncate(self, descriptor: int, size: int) -> None:
        self.moment("before rewinding")
        self.cut(descriptor, size)
        self.moment("after rewinding")

    def append_metrics(self, folder: RunFolder, record: dict[str, object]) -> None:
        line = json.dumps(record)
        self.moment("half a line", lambda: folder.metrics_path.open("a").write(line[: len(line) // 2]))
        self.append(folder, record)


class Attempts:
    """Attempts at one kind of work, each in its own child process."""

    def __init__(self, work: Callable[[Path], None]) -> None:
        self.work = work
        self.killed: Counter[str] = Counter()

    def attempt(
        self, folder: Path, *, seconds: float | None = None, moment: int | None = None
    ) -> tuple[bool, list[str]]:
        """Work on the folder in a child.

        Args:
            seconds: kill it after this time.
            moment: kill it at this moment of its writing.

        Returns:
            Whether it finished, and the moments it passed, or the one at which it was killed.
        """
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                if seconds is None:
                    KillAtMoment(moment, writing)
                self.work(folder)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(writing)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(pid, signal.SIGKILL)
        with open(reading, encoding="utf-8") as pipe:
            moments = pipe.read().split("\n")[:-1]
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == -signal.SIGKILL:
            self.killed[moments[-1] if moments else "some time"] += 1
        elif status != 0:
            raise SystemExit("a child failed")
        return status == 0, moments


def main(kind: str, experts: Path, out: Path) -> None:
    """Kill at KILLS random times and at KILLS or more moments of writing, every kind among them; finish every run."""
    work = WORKS[kind]
    work(experts, out / "undisturbed")  # in this process, so that the children find all modules imported
    if len(os.listdir("/proc/self/task")) > 1:
        raise SystemExit("the process has threads, which its children would not have")
    attempts = Attempts(lambda folder: work(experts, folder))
    began = time.perf_counter()
    _, moments = attempts.attempt(out / "counted")
    duration = time.perf_counter() - began
    finished = []
    for by_time in (True, False):
        chance = random.Random(1)  # new, since the number of draws before it varies
        target = sum(attempts.killed.values()) + KILLS
        kinds = [] if by_time else sorted(set(moments))
        while kinds or sum(attempts.killed.values()) < target:
            folder = out / f"resumed-{len(finished)}"
            done = False
            if kinds:
                name = kinds.pop()
                done, _ = attempts.attempt(
                    folder, moment=chance.choice([i for i, at in enumerate(moments) if at == name])
                )
            while not done and sum(attempts.killed.values()) < target:
                if by_time:
                    done, _ = attempts.attempt(folder, seconds=chance.uniform(0.0, 1.0) * duration)
                else:
                    done, _ = attempts.attempt(folder, moment=chance.randrange(len(moments)))
            if not done:
                attempts.attempt(folder)
            finished.append(str(folder))
    print(json.dumps({"undisturbed": str(out / "undisturbed"), "resumed": finished, "killed": attempts.killed}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
