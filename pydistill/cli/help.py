"""What --help prints: a first screen per command, and a recipe's settings by group when they are asked for."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jsonargparse

from pydistill.cli.messages import nearest
from pydistill.errors import InputError

GROUPS = {
    "data": "which data set, where it lies, how it is preprocessed",
    "model": "the network of the experts, the student and the evaluation",
    "expert": "how experts are trained",
    "distill": "the distillation: method, steps, learning rates, starts, …",
    "evaluation": "the protocol that judges a distilled set",
    "log": "where a run also tells its events, beside the recipe: TensorBoard, wandb",
}
WIDEST = 110


class HelpFormatter(jsonargparse.DefaultHelpFormatter):  # type: ignore[misc]
    """jsonargparse's without Python's types, and without defaults that say nothing."""

    def _get_help_string(self, action: Any) -> str:
        told = str(action.help or "")
        plain = action.default not in (None, False, argparse.SUPPRESS) and action.option_strings
        if isinstance(action, jsonargparse.ActionConfigFile) or not plain or isinstance(action.default, Mapping):
            return f"{told} (required)" if action.required and action.option_strings else told
        return f"{told} (default: %(default)s)"


def print_overview(about: Mapping[str, str]) -> None:
    """`pydistill --help`: every command in a line."""
    widest = max(map(len, about))
    print("usage: pydistill COMMAND …\n\nDataset distillation by trajectory matching.\n\ncommands:")
    for name, told in about.items():
        print(f"  {name:<{widest}}  {told}")
    print(
        "\nexamples:\n"
        "  pydistill demo                               # the whole way on digits, in a minute or two\n"
        "  pydistill experts --preset demo/digits-att --out experts\n"
        "  pydistill distill --preset demo/digits-att --experts experts --out runs/first\n"
        "  pydistill evaluate runs/first --models convnet3 alexnet\n"
        "\npydistill COMMAND --help tells more; --debug with any command shows the whole traceback of an error."
    )


def print_help(parser: Any, name: str, examples: str, asked: Sequence[str]) -> None:
    """`pydistill NAME --help`: options, groups of settings, examples; with a group behind it that group's settings.

    Raises:
        InputError: what stands behind --help is no group of the command.
    """
    groups = settings_by_group(parser)
    if asked and groups and not asked[0].startswith("-"):
        _print_group(parser, name, asked[0], groups)
        return
    hide(parser, list(groups))
    for action in parser._actions:
        if "--print_config" in action.option_strings:
            action.help = "print the recipe that comes of it all, as YAML, and stop"
    print(parser.format_help().rstrip())
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    if groups:
        example = "distill.steps 30" if "distill" in groups else "expert.count 10"
        print(f"\nsettings of the recipe, each a flag such as --{example} (--help GROUP explains a group's):")
        for group, settings in groups.items():
            names = ", ".join(setting.removeprefix(f"{group}.") for setting in settings)
            print(textwrap.fill(names, width, initial_indent=f"  {group:<11} ", subsequent_indent=" " * 14))
        print(
            "\n--preset NAME takes a recipe that comes with pydistill (--help presets lists them), --config FILE one of"
            "\nyour own in YAML or JSON; what stands behind it overrides it. null means none, or as the method has it."
        )
    print(f"\nexamples:{textwrap.indent(textwrap.dedent(examples), '  ').rstrip()}")


def settings_by_group(parser: Any) -> dict[str, list[str]]:
    """The recipe's settings that the parser takes and shows: group → dotted names."""
    found: dict[str, list[str]] = {}
    for action in parser._actions:
        group, _, setting = str(action.dest).partition(".")
        plain = setting and not setting.endswith(".help") and not isinstance(action.default, argparse.Namespace)
        if group in GROUPS and plain and action.help != argparse.SUPPRESS and _explained(action):
            found.setdefault(group, []).append(action.dest)
    return found


def hide(parser: Any, groups: Sequence[str]) -> None:
    """Take the settings of these groups out of the help; they are read as before."""
    for action in parser._actions:
        if str(action.dest).partition(".")[0] in groups and "." in f"{action.dest}." and action.option_strings:
            action.help = argparse.SUPPRESS


def _explained(action: Any) -> bool:
    return not str(action.help or "").startswith(("Path to a configuration file", "Show the help for"))


def _print_group(parser: Any, name: str, asked: str, groups: Mapping[str, Sequence[str]]) -> None:
    if asked == "presets":
        from pydistill.recipes.recipe import preset_names

        print("\n".join(preset_names()))
        return
    if asked not in groups and asked != "all":
        known = [*groups, "presets", "all"]
        raise InputError(f"--help {asked}: there is no such group{nearest(asked, known)}; there are {', '.join(known)}")
    wanted = {setting for group in groups if asked in (group, "all") for setting in groups[group]}
    for action in parser._actions:
        if action.dest not in wanted:
            action.help = argparse.SUPPRESS
    parser.usage = argparse.SUPPRESS
    parser.description = f"{asked}: {GROUPS[asked]}" if asked in GROUPS else "all settings of a recipe"
    print(parser.format_help().strip())
