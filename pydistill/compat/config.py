"""Read the configuration files of DATM as flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydistill.cli.parser import Parser
from pydistill.errors import InputError
from pydistill.recipes.yaml import read_yaml_file


def with_config(parser: Parser, words: Sequence[str]) -> list[str]:
    """Put the settings of the file that --cfg names, as flags, before the flags of a command, which override them.

    Raises:
        InputError: the file cannot be read, is not a mapping of names to values, or names a setting that does not
            exist; or a flag is wrong.
    """
    file = parser.parse(words).cfg
    if file is None:
        return list(words)
    values = read_yaml_file(file, f"--cfg {file}")
    if not isinstance(values, Mapping):
        raise InputError(f"--cfg {file} must be a mapping of names to values, such as ipc: 10")
    flags = set(parser.names.values())
    unknown = [str(name) for name in values if f"--{name}" not in flags or name == "cfg"]
    if unknown:
        raise InputError(f"--cfg {file} sets {', '.join(unknown)}, which DATM's last revision does not have; remove it")
    return [*(f"--{name}={value}" for name, value in values.items() if value is not None), *words]
