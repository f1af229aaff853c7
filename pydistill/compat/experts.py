"""Import the experts in a buffer folder of the published scripts into a store."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydistill.cli.errors import note
from pydistill.compat.flags import Script
from pydistill.compat.sources import already_imported, write_sources
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
from pydistill.trajectories.formats.mct import partner, waypoint_stem
from pydistill.trajectories.record import ExpertsRecord

RECORDED = "replay_buffer"


def _buffer_files(folder: Path, stem: str, limit: int | None) -> list[Path]:
    """List `STEM_0.pt`, `STEM_1.pt`, … of a folder up to the first gap, at most `limit` of them."""
    files: list[Path] = []
    while (file := folder / f"{stem}_{len(files)}.pt").exists():
        files.append(file)
    if not files:
        raise InputError(
            f"{folder} holds no {stem}_0.pt; train experts into it (python -m pydistill.compat.buffer with"
            " the same flags), or set the --buffer_path, --model and --zca that they were trained with"
        )
    return files[:limit]


def stem_of(values: argparse.Namespace) -> str:
    """Return the name of MCT's files for these flags, without the number; raise InputError if MCT has none."""
    waypoints = values.num_interpolation
    rule = fraction_rule(values)
    if waypoints < 2:
        raise InputError(f"--num_interpolation must be at least 2, not {waypoints}")
    if rule != "path" and waypoints > 2:
        raise InputError(
            "--abl_uniform_points, --abl_decreasing_points and --abl_projected_points go with --num_interpolation 2 "
            f"only, not with {waypoints}: MCT has no such files"
        )
    return waypoint_stem(waypoints, rule)


def fraction_rule(values: argparse.Namespace) -> FractionRule:
    """Choose the fraction rule of the one of MCT's three flags that is set; the path length without a flag."""
    rules: dict[FractionRule, bool] = {
        "uniform": values.abl_uniform_points,
        "decreasing": values.abl_decreasing_points,
        "projected": values.abl_projected_points,
    }
    chosen = [rule for rule, flag in rules.items() if flag]
    if len(chosen) > 1:
        raise InputError("--abl_uniform_points, --abl_decreasing_points and --abl_projected_points exclude each other")
    return chosen[0] if chosen else "path"


def import_experts(
    values: argparse.Namespace, script: Script, folder: Path, dataset: Dataset, model: ModelSettings
) -> TrajectoryStore:
    """Import the experts of the buffer files once, into a store in the same folder or in `--experts`.

    Scripts that read files of the same layout share a store. Experts whose files in the store are missing, or differ in
    size or header, are imported again.

    Raises:
        InputError: there are no buffers, or the store was imported from other buffers, with other limits, or before the
            buffers changed.
        MismatchError: the buffers hold experts of another network, or the store holds other experts.
    """
    for name in ("max_files", "max_experts"):
        if getattr(values, name) is not None and getattr(values, name) < 1:
            raise InputError(f"--{name} must be at least 1, not {getattr(values, name)}")
    stem = stem_of(values) if script == "mct" else RECORDED
    if not (folder / f"{stem}_0.pt").exists() and (folder / f"{RECORDED}_0.pt").exists():
        note(f"there is no {stem}_0.pt in {folder}, so the experts of {RECORDED}_0.pt … are convexified")
        stem = RECORDED
    convexified = stem != RECORDED
    files = _buffer_files(folder, stem, values.max_files)
    sources = [source for file in files for source in ((file, partner(file)) if convexified else (file,))]
    out = Path(values.experts) if values.experts else folder / _store_name(values, stem)
    if already_imported(out, sources, values.max_experts):
        store = TrajectoryStore.open(out)
        if not store.verify(content=False):
            record = _record(dataset, model, store.record.training, store.record.epochs)
            return TrajectoryStore.create(
                out, record, kind=store.kind, dtype=store.dtype, convexification=store.convexification
            )
    layout: ForeignLayout = (describe_mct if convexified else describe_mtt)(files[0])
    # The files record no training settings; only their layout shows the source.
    training = {"source": "mct" if convexified else "mtt"}
    record = _record(dataset, model, training, layout.epochs)
    store = (import_mct if convexified else import_mtt)(files, out, record, per_file=values.max_experts)
    write_sources(out, sources, values.max_experts)
    return store


def _record(dataset: Dataset, model: ModelSettings, training: dict[str, Any], epochs: int) -> ExpertsRecord:
    """Return the record of experts of these data, network, training and epochs."""
    settings = ExpertSettings()
    settings = replace(settings, training=replace(settings.training, epochs=epochs))
    return replace(experts_record(dataset, model, settings), training=training)


def _store_name(values: argparse.Namespace, stem: str) -> str:
    """Return the name of the store, which differs for every choice of --max_files and --max_experts."""
    limits = {"files": values.max_files, "experts": values.max_experts}
    suffix = "".join(f"-{limit}-{name}" for name, limit in limits.items() if limit is not None)
    return re.sub("_buffer", "", f"pydistill-{stem}") + suffix
