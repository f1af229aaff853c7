"""MCT's trajectory_compression.py, run as `python -m pydistill.compat.trajectory_compression <its flags>`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydistill import data
from pydistill._util.progress import Bar
from pydistill.cli.errors import print_result
from pydistill.compat.command import run_command
from pydistill.compat.datasets import buffer_folder, data_of
from pydistill.compat.experts import RECORDED, fraction_rule, import_experts, stem_of
from pydistill.compat.exported import export_buffers, exported
from pydistill.compat.flags import compression_parser
from pydistill.compat.networks import network_of
from pydistill.trajectories import describe_mtt


def compress(arguments: Sequence[str]) -> None:
    """Convexify the experts in `replay_buffer_N.pt`; write as many pairs `waypoint_buffer…_N.pt`, `step_buffer…_N.pt`.

    Raises:
        InputError: a flag is wrong, there are no buffers, or a file of another program would be replaced.
        PydistillError: as `import_experts`.
    """
    values = compression_parser().parse(arguments)
    stem, rule = stem_of(values), fraction_rule(values)
    folder, model = buffer_folder(values, "mct"), network_of(values.model)
    store = import_experts(values, "mtt", folder, data.load(data_of(values, "mct"), device=None), model)
    with Bar("convexifying", len(store), quiet=values.quiet) as bar:
        convexified = store.write_convexified(
            folder / f"pydistill-{stem.replace('waypoint_buffer', 'convexified')}",
            waypoints=values.num_interpolation,
            fractions=rule,
            on_progress=lambda done, total: bar.step(expert=f"{done}/{total}"),
        )
    files = export_buffers(convexified, folder, describe_mtt(folder / f"{RECORDED}_0.pt").experts)
    print_result(exported(len(store), files))


def main(arguments: Sequence[str] | None = None) -> int:
    """Convexify experts; return the exit status."""
    return run_command(compress, arguments)


if __name__ == "__main__":
    sys.exit(main())
