"""The command line: `pydistill experts | convexify | distill | evaluate | show | demo | doctor`."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydistill.errors import InputError, Interrupted, MismatchError, MissingDependencyError, PydistillError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [each for each in given if each != "--debug"]
    logging.basicConfig(format="pydistill: %(message)s", level=logging.INFO)
    try:
        status = _run(given)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("pydistill: stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (PydistillError, OSError) as error:
        if debug:
            raise
        print(f"pydistill: error: {_one_line(error)}", file=sys.stderr)
        if isinstance(error, Interrupted):
            return EXIT_INTERRUPTED
        return EXIT_USAGE if isinstance(error, (InputError, MismatchError)) else EXIT_FAILED


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# What jsonargparse calls a kind, and what a person does.
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "NoneType": "null",
    "tuple": "a list such as [a, b]",
    "list": "a list such as [1, 2]",
}


def _setting_error(text: str) -> str:
    """jsonargparse's message about a value of the wrong kind, said without Python's types; others as they are."""
    found = re.search(r'Parser key "([^"]+)":', text)
    if found is None:
        return text
    kinds = [
        KINDS[kind]
        for kind in dict.fromkeys(re.findall(r"<class '(\w+)'>", text.split("Given value")[0]))
        if kind in KINDS
    ]
    value = re.search(r"(?:Got value|Given value): (.*?)(?: \(|$)", text)
    if not kinds or value is None or "dataclass" in text:
        return text
    return f"{found[1]} must be {' or '.join(kinds)}, not {value[1]}"


def _run(given: list[str]) -> int:
    try:
        import jsonargparse
    except ImportError as error:
        raise MissingDependencyError(
            "the command line needs jsonargparse; install it with: pip install 'pydistill[cli]'"
        ) from error
    parser = build_parser()
    if not given:
        parser.print_help()
        return EXIT_USAGE
    try:
        parsed = parser.parse_args(given)
    except jsonargparse.ArgumentError as error:
        listed = f"pydistill {given[0]} --help" if given[0] in COMMANDS else "pydistill --help"
        raise InputError(f"{_setting_error(_one_line(error))} ({listed} lists what there is)") from error
    command = parsed.command
    try:
        values = parser.instantiate(parsed)[command]
    except (TypeError, ValueError) as error:
        from pydistill.recipe import refused_setting

        raise refused_setting(error) from error
    return COMMANDS[command][1](values)


def build_parser() -> Any:
    """The parser of all commands."""
    import jsonargparse

    import pydistill

    parser = jsonargparse.ArgumentParser(
        prog="pydistill",
        description="Dataset distillation by trajectory matching.",
        epilog="--debug with any command shows the whole traceback of an error.",
        exit_on_error=False,
        version=pydistill.__version__,
    )
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    for name, (add_arguments, _, about) in COMMANDS.items():
        usage = f"pydistill {name} {USAGE[name]}"
        command = jsonargparse.ArgumentParser(description=about, usage=usage, exit_on_error=False)
        add_arguments(command)
        commands.add_subcommand(name, command, help=about.split(". ")[0])
    return parser


def _add_recipe(parser: Any) -> None:
    import jsonargparse

    from pydistill.recipe import Recipe, preset_names, preset_path

    base: Any = jsonargparse.ActionConfigFile

    class RecipeFile(base):  # type: ignore[misc]
        """Reads a recipe from a file, or from a preset by its name."""

        def __call__(self, parser: Any, config: Any, value: Any, option: str | None = None) -> None:
            path = preset_path(value) if option == "--preset" else value
            try:
                super().__call__(parser, config, str(path), option)
            except (TypeError, ValueError, KeyError, jsonargparse.ArgumentError) as error:
                raise InputError(f"recipe {path}: {_setting_error(_one_line(error))}") from error

    parser.add_argument(
        "--config",
        "--preset",
        action=RecipeFile,
        metavar="FILE|NAME",
        help=f"a recipe file, or with --preset one of {', '.join(preset_names())}; flags behind it override it",
    )
    parser.add_class_arguments(Recipe, None)


def _recipe(values: Any) -> Any:
    from pydistill.recipe import Recipe

    return Recipe(**{name: values[name] for name in ("data", "model", "expert", "distill", "evaluation")})


def _add_device(parser: Any) -> None:
    parser.add_argument(
        "--device", type=str, default="auto", help="cpu, cuda, cuda:1 …; auto takes a GPU if there is one"
    )


def _dataset(recipe: Any, device: str) -> Any:
    """The recipe's data on the device that everything then runs on."""
    import torch

    from pydistill import data

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} is not to be had: {str(error).splitlines()[0]}") from error
    return data.load(recipe.data, device)


def _experts_arguments(parser: Any) -> None:
    _add_recipe(parser)
    parser.add_argument("--out", type=str, required=True, help="folder of the experts; whole ones in it are kept")
    _add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _experts(values: Any) -> int:
    from pydistill.commands import train_experts_shown

    recipe = _recipe(values)
    dataset = _dataset(recipe, values.device)
    store = train_experts_shown(dataset, recipe, Path(values.out), quiet=values.quiet)
    finals = [100 * store.accuracies(position)["test"][-1] for position in range(len(store))]
    print(f"{len(store)} experts in {values.out}; final test accuracy {sum(finals) / len(finals):.1f} % on average")
    return 0


def _convexify_arguments(parser: Any) -> None:
    from pydistill.trajectories import FractionRule, Smoothing

    parser.add_argument("experts", type=str, help="folder of recorded experts")
    parser.add_argument("--out", type=str, required=True, help="folder of the convexified experts")
    parser.add_argument("--waypoints", type=int | list[int], default=4, help="how many waypoints, or their epochs")
    parser.add_argument("--smoothing", type=Smoothing, default="neighbours", help="how waypoints are smoothed")
    parser.add_argument("--fractions", type=FractionRule, default="path", help="how far along a segment each epoch is")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _convexify(values: Any) -> int:
    from pydistill.progress import Bar
    from pydistill.trajectories import TrajectoryStore

    store = TrajectoryStore.open(values.experts)
    with Bar("convexifying", len(store), quiet=values.quiet) as bar:
        written = store.write_convexified(
            values.out,
            waypoints=values.waypoints,
            smoothing=values.smoothing,
            fractions=values.fractions,
            on_progress=lambda done, total: bar.step(expert=f"{done}/{total}"),
        )
    print(f"{len(written)} convexified experts in {values.out}")
    return 0


def _distill_arguments(parser: Any) -> None:
    _add_recipe(parser)
    parser.add_argument("--experts", type=str, required=True, help="folder of experts, recorded or convexified")
    parser.add_argument("--out", type=str, required=True, help="run folder")
    _add_device(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder if there is one")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _distill(values: Any) -> int:
    from pydistill.commands import distill_shown
    from pydistill.trajectories import TrajectoryStore

    recipe = _recipe(values)
    recipe.distill.check()
    store = TrajectoryStore.open(values.experts)
    dataset = _dataset(recipe, values.device)
    result = distill_shown(dataset, recipe, store, Path(values.out), resume=values.resume, quiet=values.quiet)
    final, best = result.accuracy_final, result.accuracy_best
    print(f"final accuracy: {_percent(final)}, after {recipe.distill.iterations} iterations")
    print(f"best accuracy:  {_percent(best)}, after {result.best_iteration} iterations (chosen by test accuracy)")
    print(f"the set is in {result.folder.path}, the whole run in its summary.json")
    return 0


def _percent(evaluation: Any) -> str:
    return f"{100 * evaluation.mean:.1f} ± {100 * evaluation.std:.1f} % ({len(evaluation.accuracies)} networks)"


def _evaluate_arguments(parser: Any) -> None:
    parser.add_argument("run", type=str, help="run folder, or a distilled set's file")
    parser.add_argument("--models", type=str, nargs="+", help="networks, e.g. convnet3 alexnet vgg11 resnet18")
    parser.add_argument("--repeats", type=int | None, default=None, help="networks of each kind")
    parser.add_argument("--epochs", type=int | None, default=None, help="epochs of each training")
    parser.add_argument("--seed", type=int | None, default=None, help="of the networks")
    parser.add_argument("--data", type=str | None, default=None, help="where the data lie, if not where they were")
    _add_device(parser)
    parser.add_argument("--which", choices=["final", "best"], default="final", help="which set of the run")
    parser.add_argument("--json", type=str | None, default=None, help="also write the numbers to this file")


def _evaluate(values: Any) -> int:
    from pydistill.artefact import BEST_NAME, Artefact
    from pydistill.commands import recipe_of
    from pydistill.evaluate import evaluate_models, table
    from pydistill.files import write_json

    path = Path(values.run)
    if path.is_dir() and values.which == "best":
        path = path / BEST_NAME
    artefact = Artefact.load(path)
    recipe = recipe_of(artefact)
    if values.data is not None:
        recipe = replace(recipe, data=replace(recipe.data, path=values.data))
    settings = recipe.evaluation
    if values.epochs is not None:
        settings = replace(settings, training=replace(settings.training, epochs=values.epochs))
    changes: dict[str, Any] = {"models": tuple(values.models) if values.models else None}
    changes |= {name: values[name] for name in ("repeats", "seed")}
    settings = replace(settings, **{name: value for name, value in changes.items() if value is not None})
    dataset = _dataset(recipe, values.device)
    if dataset.digest != artefact.provenance["dataset"]["digest"]:
        raise MismatchError(
            f"the set was distilled from {artefact.provenance['dataset']['name']} with digest "
            f"{artefact.provenance['dataset']['digest'][:12]}, and {recipe.data.name} here has {dataset.digest[:12]}; "
            "name the folder of the same data with --data"
        )
    rows = evaluate_models(artefact.images, artefact.labels, artefact.lr, dataset, recipe.model, settings)
    print(table(rows))
    if values.json is not None:
        write_json(values.json, [row.as_record() for row in rows])
    return 0


def _show_arguments(parser: Any) -> None:
    parser.add_argument("run", type=str, help="run folder")


def _show(values: Any) -> int:
    from pydistill.commands import draw_run
    from pydistill.runfolder import RunFolder

    for path in draw_run(RunFolder(values.run)):
        print(path)
    return 0


def _demo_arguments(parser: Any) -> None:
    parser.add_argument("--method", choices=["att", "mct", "mtt", "tesla"], default="att", help="how to distil")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="run folder; default runs/demo-METHOD-SEED, or the next free number of it",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _demo(values: Any) -> int:
    from pydistill.demo import demo

    out = Path(values.out) if values.out else _free_folder(Path("runs"), f"demo-{values.method}-{values.seed}")
    print(demo(values.method, values.seed, out, quiet=values.quiet))
    return 0


def _free_folder(parent: Path, name: str) -> Path:
    """parent/name, or parent/name-2, -3, … if there are some already."""
    number = 1
    while (parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return parent / (name if number == 1 else f"{name}-{number}")


def _doctor_arguments(parser: Any) -> None:
    pass


def _doctor(values: Any) -> int:
    from pydistill.doctor import report

    text, healthy = report()
    print(text)
    return 0 if healthy else EXIT_FAILED


COMMANDS: dict[str, tuple[Callable[[Any], None], Callable[[Any], int], str]] = {
    "demo": (_demo_arguments, _demo, "Distil scikit-learn's digits into ten images, from experts to pictures."),
    "experts": (_experts_arguments, _experts, "Train experts and store their trajectories."),
    "convexify": (_convexify_arguments, _convexify, "Convexify recorded experts into waypoints (MCT)."),
    "distill": (_distill_arguments, _distill, "Distil a data set from stored experts."),
    "evaluate": (_evaluate_arguments, _evaluate, "Train fresh networks on a distilled set and test them."),
    "show": (_show_arguments, _show, "Draw a run's images and curves."),
    "doctor": (_doctor_arguments, _doctor, "Tell what is installed and what would run, and test it."),
}


_RECIPE_USAGE = "[--preset NAME | --config FILE] [--GROUP.SETTING VALUE …]"
USAGE = {
    "demo": "[--method att|mct|mtt|tesla] [--seed N] [--out RUN]",
    "experts": f"{_RECIPE_USAGE} --out EXPERTS",
    "convexify": "EXPERTS --out CONVEXIFIED [--waypoints W]",
    "distill": f"{_RECIPE_USAGE} --experts EXPERTS --out RUN [--resume]",
    "evaluate": "RUN [--models NAME …] [--repeats N]",
    "show": "RUN",
    "doctor": "",
}


if __name__ == "__main__":
    sys.exit(main())
