"""MTT's buffer.py, run as `python -m pydistill.compat.buffer <its flags>`: train experts, write replay_buffer_N.pt."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydistill import data
from pydistill._util.settings import from_dict
from pydistill.cli.errors import note, print_result
from pydistill.compat.command import run_command
from pydistill.compat.datasets import buffer_folder, data_of
from pydistill.compat.exported import export_buffers, exported, refuse_foreign
from pydistill.compat.flags import Script, buffer_parser
from pydistill.compat.networks import network_of
from pydistill.compat.recipe import augmentation_of, sharpness_of
from pydistill.errors import InputError
from pydistill.recipes.recipe import Recipe
from pydistill.runs.workflow import train_and_store
from pydistill.training.gsam import SharpnessSettings

_STORE = "pydistill-experts"
_FTD_DEFAULTS = SharpnessSettings(rho=2.0, alpha=0.4)


def train(arguments: Sequence[str]) -> None:
    """Train the experts described by the flags of buffer.py.

    Running a stopped command again continues after the last complete expert.

    Raises:
        InputError: a flag is wrong or not supported, or a buffer of another program would be replaced.
        PydistillError: as `train_experts`.
    """
    values = buffer_parser().parse(arguments)
    script: Script = values.script
    values = buffer_parser(script).parse(arguments)
    if values.dsa == "False":
        raise InputError(
            "--dsa False is refused: buffer.py then uses another augmentation; --dsa_strategy none turns it off"
        )
    if values.decay and values.mom:
        raise InputError(
            "--mom with --decay is refused: buffer.py resets its momentum when it lowers the rate, which is not "
            "implemented; leave one of them out"
        )
    if values.save_interval < 1:
        raise InputError(f"--save_interval must be at least 1, not {values.save_interval}")
    training = {
        "epochs": values.train_epochs,
        "batch_size": values.batch_train,
        "lr": values.lr_teacher,
        "momentum": values.mom,
        "weight_decay": values.l2,
        "schedule": "halfway" if values.decay else "constant",
        "dsa": augmentation_of(values),
        "sharpness": sharpness_of(values),
    }
    expert = {"count": values.num_experts, "seed": values.seed, "training": training}
    recipe = from_dict(Recipe, {"data": data_of(values, script), "model": network_of(values.model), "expert": expert})
    if script == "ftd" and recipe.expert.training.sharpness == _FTD_DEFAULTS:
        note("--rho_max, --rho_min and --alpha are FTD's defaults, 2 and 0.4; its paper has ρ = 0.01 and α = 0.3 or 1")
    if values.dataset == "ImageNet" and values.subset is None:
        note("--dataset ImageNet is the subset imagenette, as for MTT; TESLA's of 1,000 classes is not implemented")
    folder = buffer_folder(values, script)
    refuse_foreign(
        folder, (f"replay_buffer_{index}.pt" for index in range(-(-values.num_experts // values.save_interval)))
    )
    store = train_and_store(data.load(recipe.data, device=None), recipe, folder / _STORE, quiet=values.quiet)
    files = export_buffers(store, folder, values.save_interval)
    print_result(exported(len(store), files))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train experts; return the exit status."""
    return run_command(train, arguments)


if __name__ == "__main__":
    sys.exit(main())
