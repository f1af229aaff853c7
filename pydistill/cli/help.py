"""Print the help: the commands, a command's flags, and the settings of a recipe by group."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydistill.cli.parser import Group, Parser, did_you_mean
from pydistill.errors import InputError

if TYPE_CHECKING:
    from pydistill._util.settings import Described

WIDEST = 110
EXAMPLES = """
examples:
  pydistill demo                               # from experts to pictures on digits, in seconds
  pydistill experts --preset demo/digits-att --out experts
  pydistill distill --preset demo/digits-att --experts experts --out runs/first
  pydistill evaluate runs/first --models convnet3 alexnet

pydistill COMMAND --help explains a command; --debug with any command shows the traceback of an error."""
RECIPES = """
--preset NAME uses a recipe that comes with pydistill (--help presets lists them), --config FILE reads one of
your own in YAML or JSON; flags override both. null means none, or the method's default."""


def print_overview(about: Mapping[str, str]) -> None:
    """Print `pydistill --help`: a line per command."""
    widest = max(map(len, about))
    print("usage: pydistill COMMAND …\n\nDataset distillation by trajectory matching.\n\ncommands:")
    for name, line in about.items():
        print(f"  {name:<{widest}}  {line}")
    print(EXAMPLES)


def print_help(parser: Parser, examples: str, topic: str | None) -> None:
    """Print `pydistill COMMAND --help [TOPIC]`; a topic is a group of settings, `all` of them, or `presets`.

    Raises:
        InputError: there is no such topic, or the command has none.
    """
    listed = [group for group in parser.groups if group.listed]
    if topic is not None:
        if not listed:
            raise InputError(f"--help {topic}: {parser.prog} has no topics; {parser.prog} --help lists its flags")
        _print_topic(topic, listed)
        return
    print(parser.format_help().rstrip())
    if listed:
        print("\nsettings, as in --distill.steps 30 (--help GROUP explains the settings of a group):")
        for group in listed:
            names = ", ".join(setting.name.removeprefix(f"{group.name}.") for setting in _outer(group.settings))
            print(textwrap.fill(names, _width(), initial_indent=f"  {group.name:<11} ", subsequent_indent=" " * 14))
        print(RECIPES)
    print(f"\nexamples:{textwrap.indent(textwrap.dedent(examples), '  ').rstrip()}")


def _print_topic(topic: str, groups: list[Group]) -> None:
    if topic == "presets":
        from pydistill.recipes.recipe import preset_names

        print("\n".join(preset_names()))
        return
    topics = [*(group.name for group in groups), "all", "presets"]
    if topic not in topics:
        raise InputError(f"--help {topic}: there is no such topic{did_you_mean(topic, topics)}")
    for group in groups:
        if topic in (group.name, "all"):
            print(f"{group.name}: {group.help}\n")
            for setting in group.settings:
                default = str(setting.default).lower() if isinstance(setting.default, bool) else setting.default
                text = setting.help if default is None else f"{setting.help} (default: {default})"
                print(f"  --{setting.name}")
                print(textwrap.fill(text, _width(), initial_indent=" " * 8, subsequent_indent=" " * 8))
            print()


def _outer(settings: list[Described]) -> list[Described]:
    """Return the settings that are not nested in another one, as those of the augmentation are."""
    names = {setting.name for setting in settings}
    return [setting for setting in settings if setting.name.rpartition(".")[0] not in names]


def _width() -> int:
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
