"""`pydistill completion`: a script for the shell that completes commands, flags, presets and files."""

from __future__ import annotations

import argparse
import json
from typing import Any

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
    from pydistill.cli.parser import command_parser
    from pydistill.recipe import preset_names

    found: dict[str, dict[str, list[str]]] = {}
    for name in COMMANDS:
        flags: dict[str, list[str]] = {"--help": [], "--debug": []}
        for action in command_parser(name)._actions:
            values = _values(action)
            for option in action.option_strings:
                if option.startswith("--") and not option.endswith(".help"):
                    flags[option] = preset_names() if option == "--preset" else values
            if not action.option_strings and values and action.help != argparse.SUPPRESS:
                flags[""] = values  # of a word without a flag
        found[name] = flags
    return found


def _values(action: Any) -> list[str]:
    if action.choices:
        return [str(each) for each in action.choices]
    shown = action.metavar if isinstance(action.metavar, str) else ""
    return shown[1:-1].split(",") if shown.startswith("{") and shown.endswith("}") else []


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
        '    local before="${words[CURRENT-1]}"',
        "    local -a flags values",
        "    if (( CURRENT == 2 )); then",
        f"        compadd -- {' '.join(known)} --help --version",
        "        return",
        "    fi",
        '    case "${words[2]}" in',
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
    ]
    for name, flags in known.items():
        condition = f"-n '__fish_seen_subcommand_from {name}'"
        for flag, values in flags.items():
            taken = f" -x -a {json.dumps(' '.join(values))}" if values else ""
            lines.append(f"complete -c pydistill {condition}{f' -l {flag[2:]}' if flag else ''}{taken}")
    return "\n".join(lines) + "\n"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
