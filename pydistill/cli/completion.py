"""`pydistill completion`: a script for the shell that completes commands, flags, presets and files."""

from __future__ import annotations

import argparse
import json
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydistill.cli import COMMANDS, status

ABOUT = "Print the script that lets a shell complete pydistill's commands and flags."
USAGE = "bash|zsh|fish"
EXAMPLES = """
  source <(pydistill completion bash)                                    # in this shell; in ~/.bashrc for all
  pydistill completion zsh > ~/.zfunc/_pydistill                         # a folder of $fpath
  pydistill completion fish > ~/.config/fish/completions/pydistill.fish
"""


def add_arguments(parser: Any) -> None:
    """The shell."""
    parser.add_argument("shell", choices=list(SHELLS), help="whose script to print")


def run(values: Any) -> int:
    """Print the script; it names every flag, so that completing never starts Python."""
    print(SHELLS[values.shell](words()), end="")
    return status.DONE


def words() -> dict[str, dict[str, list[str]]]:
    """Command → flag → the values that it takes (none: a file, a number, or nothing)."""
    from pydistill.cli.help import settings_by_group
    from pydistill.cli.parser import command_parser
    from pydistill.data.load import NAMES
    from pydistill.distillation.methods import METHODS
    from pydistill.recipes.recipe import preset_names

    named = {
        "--preset": preset_names(),
        "--data.name": list(NAMES),
        "--distill.method": list(METHODS),
        "--device": ["auto", "cpu", "cuda"],
    }
    found: dict[str, dict[str, list[str]]] = {}
    for name in COMMANDS:
        parser = command_parser(name)
        flags: dict[str, list[str]] = {"--help": [], "--debug": []}
        for action in parser._actions:
            values = _values(action)
            for option in action.option_strings:
                if option.startswith("--") and not option.endswith(".help"):
                    flags[option] = named.get(option, values)
            if not action.option_strings and values and action.help != argparse.SUPPRESS:
                flags[""] = values  # of a word without a flag
        groups = settings_by_group(parser)
        flags["--help"] = [*groups, "all", "presets"] if groups else []
        found[name] = flags
    return found


def _values(action: Any) -> list[str]:
    if action.choices:
        return [str(each) for each in action.choices]
    return _literals(getattr(action, "_typehint", None))


def _literals(hint: Any) -> list[str]:
    """The words that a type is made of, in the order that it names them."""
    if hint is bool:
        return ["true", "false"]
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    if get_origin(hint) in (Union, UnionType):
        found = [word for part in get_args(hint) for word in _literals(part)]
        return [*found, "null"] if found and NoneType in get_args(hint) else found
    return []


def bash(known: dict[str, dict[str, list[str]]]) -> str:
    """The script for bash."""
    lines = [
        "# bash completion of pydistill; made by `pydistill completion bash`",
        "_pydistill() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" flags="" values="" first=1',
        "    # bash takes = for a word of its own",
        '    if [[ $word == "=" ]]; then word=""; fi',
        '    if [[ $before == "=" ]]; then before="${COMP_WORDS[COMP_CWORD-2]}"; fi',
        "    while [[ ${COMP_WORDS[first]} == --debug && $first -lt $COMP_CWORD ]]; do ((first++)); done",
        "    if [[ $COMP_CWORD == $first ]]; then",
        f'        COMPREPLY=($(compgen -W "{" ".join(known)} --help --version --debug" -- "$word"))',
        "        return",
        "    fi",
        '    case "${COMP_WORDS[first]}" in',
    ]
    for name, flags in known.items():
        lines += [
            f"    {name})",
            f'        flags="{" ".join(flag for flag in flags if flag)}"',
            '        case "$before" in',
        ]
        lines += [f'        {flag}) values="{" ".join(each)}" ;;' for flag, each in flags.items() if flag and each]
        lines += [f'        {name}) values="{" ".join(flags[""])}" ;;'] if "" in flags else []
        lines += ["        esac", "        ;;"]
    lines += [
        "    esac",
        "    if [[ $word == -* ]]; then",
        '        COMPREPLY=($(compgen -W "$flags" -- "$word"))',
        "    elif [[ -n $values ]]; then",
        '        COMPREPLY=($(compgen -W "$values" -- "$word"))',
        "    else",
        '        COMPREPLY=($(compgen -f -- "$word"))',
        "    fi",
        "}",
        "complete -o filenames -o bashdefault -F _pydistill pydistill",
    ]
    return "\n".join(lines) + "\n"


def zsh(known: dict[str, dict[str, list[str]]]) -> str:
    """The script for zsh, as a file of $fpath or to be sourced."""
    lines = [
        "#compdef pydistill",
        "# zsh completion of pydistill; made by `pydistill completion zsh`",
        "_pydistill() {",
        '    local before="${words[CURRENT-1]}" first=2',
        "    local -a flags values",
        "    while (( first < CURRENT )) && [[ ${words[first]} == --debug ]]; do (( first++ )); done",
        "    if (( CURRENT == first )); then",
        f"        compadd -- {' '.join(known)} --help --version --debug",
        "        return",
        "    fi",
        '    case "${words[first]}" in',
    ]
    for name, flags in known.items():
        lines += [
            f"    {name})",
            f"        flags=({' '.join(flag for flag in flags if flag)})",
            '        case "$before" in',
        ]
        lines += [f"        {flag}) values=({' '.join(each)}) ;;" for flag, each in flags.items() if flag and each]
        lines += [f"        {name}) values=({' '.join(flags[''])}) ;;"] if "" in flags else []
        lines += ["        esac", "        ;;"]
    lines += [
        "    esac",
        '    if [[ "${words[CURRENT]}" == -* ]]; then',
        "        compadd -- $flags",
        "    elif (( $#values )); then",
        "        compadd -- $values",
        "    else",
        "        _files",
        "    fi",
        "}",
        'if [[ "$funcstack[1]" == _pydistill ]]; then _pydistill "$@"; else compdef _pydistill pydistill; fi',
    ]
    return "\n".join(lines) + "\n"


def fish(known: dict[str, dict[str, list[str]]]) -> str:
    """The script for fish."""
    lines = [
        "# fish completion of pydistill; made by `pydistill completion fish`",
        f"complete -c pydistill -f -n __fish_use_subcommand -a {json.dumps(' '.join(known))}",
        *(f"complete -c pydistill -f -n __fish_use_subcommand -l {flag}" for flag in ("help", "version", "debug")),
    ]
    for name, flags in known.items():
        condition = f"-n '__fish_seen_subcommand_from {name}'"
        for flag, values in flags.items():
            taken = f" -x -a {json.dumps(' '.join(values))}" if values else ""
            lines.append(f"complete -c pydistill {condition}{f' -l {flag[2:]}' if flag else ''}{taken}")
    return "\n".join(lines) + "\n"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
