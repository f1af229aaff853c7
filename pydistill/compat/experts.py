"""The experts in a buffer folder of the published scripts, as a store."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydistill.compat.command import note
from pydistill.compat.flags import Script
from pydistill.compat.sources import imported_before, keep_sources
from pydistill.data import Dataset
from pydistill.errors import InputError
from pydistill.nn import ModelSettings
from pydistill.training.experts import ExpertSettings, experts_record
from pydistill.trajectories import (
    ForeignLayout,
    FractionRule,
    TrajectoryStore,
    describe_mct,
    describe_mtt,
    import_mct,
    import_mtt,
)
from pydistill.trajectories.formats.mct import partner
from pydistill.trajectories.record import ExpertsRecord

RECORDED = "replay_buffer"
_TAGS = {"path": "", "uniform": "_uni", "decreasing": "_dec", "projected": "_proj"}


def buffer_files(folder: Path, stem: str, limit: int | None) -> list[Path]:
    """`STEM_0.pt`, `STEM_1.pt`, … of a folder, as many as there are without a gap, or the first `limit` of them.

    Raises:
        InputError: there is none.
    """
    files: list[Path] = []
    while (file := folder / f"{stem}_{len(files)}.pt").exists():
        files.append(file)
    if not files:
        raise InputError(
            f"{folder} holds no {stem}_0.pt; train experts into it (python -m pydistill.compat.buffer with"
            " the same flags), or give the --buffer_path, --model and --zca that they were trained with"
        )
    return files[:limit]


def waypoint_stem(values: argparse.Namespace) -> str:
    """The name of MCT's files for these flags, up to their number.

    Raises:
        InputError: fewer than 2 waypoints, or a variant that MCT has for 2 only.
    """
    waypoints = values.num_interpolation
    rule = fraction_rule(values)
    if waypoints < 2:
        raise InputError(f"--num_interpolation must be at least 2, not {waypoints}")
    if rule != "path" and waypoints > 2:
        raise InputError(
            "--abl_uniform_points, --abl_decreasing_points and --abl_projected_points go with --num_interpolation 2 "
            f"only, where MCT has such files, not with {waypoints}"
        )
    return f"waypoint_buffer_ip{waypoints}" if waypoints > 2 else f"waypoint_buffer{_TAGS[rule]}"


def fraction_rule(values: argparse.Namespace) -> FractionRule:
    """Choose the fraction rule: the one of MCT's three flags that is set, or path length.

    Raises:
        InputError: more than one of them.
    """
    rules: dict[FractionRule, bool] = {
        "uniform": values.abl_uniform_points,
        "decreasing": values.abl_decreasing_points,
        "projected": values.abl_projected_points,
    }
    chosen = [rule for rule, wanted in rules.items() if wanted]
    if len(chosen) > 1:
        raise InputError("--abl_uniform_points, --abl_decreasing_points and --abl_projected_points exclude each other")
    return chosen[0] if chosen else "path"


def import_experts(
    values: argparse.Namespace, script: Script, folder: Path, dataset: Dataset, model: ModelSettings
) -> TrajectoryStore:
    """The experts of the flags' buffer files, imported once into a store beside them (or `--experts`).

    Files of one layout give the same experts to every script, so whichever of them comes first imports for all. Experts
    whose files in the store are gone since, or have another size or header, are imported again.

    Raises:
        InputError: there are no buffers, or the store was imported from others, or from these with other limits or
            before they were changed.
        FormatError: a buffer is damaged, hostile or of another layout.
        MismatchError: the buffers hold another network's experts, or the store those of other data or more than the
            buffers.
    """
    for name in ("max_files", "max_experts"):
        if getattr(values, name) is not None and getattr(values, name) < 1:
            raise InputError(f"--{name} must be at least 1, not {getattr(values, name)}")
    stem = waypoint_stem(values) if script == "mct" else RECORDED
    if not (folder / f"{stem}_0.pt").exists() and (folder / f"{RECORDED}_0.pt").exists():
        note(f"there is no {stem}_0.pt in {folder}, so the experts of {RECORDED}_0.pt … are convexified")
        stem = RECORDED
    convexified = stem != RECORDED
    files = buffer_files(folder, stem, values.max_files)
    read = [each for file in files for each in ((file, partner(file)) if convexified else (file,))]
    out = Path(values.experts) if values.experts else folder / _store_name(values, stem)
    if imported_before(out, read, values.max_experts) and not (store := TrajectoryStore.open(out)).verify(
        content=False
    ):
        wanted = _record(dataset, model, store.record.training, store.record.epochs)
        return TrajectoryStore.create(
            out, wanted, kind=store.kind, dtype=store.dtype, convexification=store.convexification
        )
    layout: ForeignLayout = (describe_mct if convexified else describe_mtt)(files[0])
    # The files do not say how the experts were trained, only whose layout they have.
    training = {"source": "mct" if convexified else "mtt"}
    record = _record(dataset, model, training, layout.epochs)
    store = (import_mct if convexified else import_mtt)(files, out, record, per_file=values.max_experts)
    keep_sources(out, read, values.max_experts)
    return store


def _record(dataset: Dataset, model: ModelSettings, training: dict[str, Any], epochs: int) -> ExpertsRecord:
    """Name the experts that these flags describe."""
    settings = ExpertSettings()
    settings = replace(settings, training=replace(settings.training, epochs=epochs))
    return replace(experts_record(dataset, model, settings), training=training)


def _store_name(values: argparse.Namespace, stem: str) -> str:
    """A folder for each choice of files and experts, so that no run reads what another one left out."""
    limits = {"files": values.max_files, "experts": values.max_experts}
    limits_text = "".join(f"-{limit}-{name}" for name, limit in limits.items() if limit is not None)
    return re.sub("_buffer", "", f"pydistill-{stem}") + limits_text
