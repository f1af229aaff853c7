"""Read and write YAML 1.2, which includes JSON, with ruamel.yaml."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pydistill.errors import FormatError, InputError, MissingDependencyError

_LARGEST_FILE = 2**20
"""In bytes; files of settings are far smaller."""


def read_yaml_file(path: str | Path, source: str) -> Any:
    """Read a file of settings in YAML or JSON.

    Args:
        source: the name of the file in error messages.

    Raises:
        InputError: the file cannot be read, is larger than 1 MiB, or is not YAML.
        MissingDependencyError: ruamel.yaml is not installed.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise InputError(f"{source} is larger than 1 MiB; files of settings are small, such as a run's recipe.json")
        return read_yaml(content.decode("utf-8"))
    except OSError as error:
        raise InputError(f"{source} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not text in UTF-8") from error
    except FormatError as error:
        raise InputError(f"{source}: {error}") from error


def read_yaml(text: str) -> Any:
    """Read one YAML or JSON document; 1e-7 is a number, and a repeated key is an error.

    Raises:
        FormatError: the text is not YAML; the message gives the position, but no part of the text.
        MissingDependencyError: ruamel.yaml is not installed.
    """
    yaml = _yaml()
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        if mark is None:
            raise FormatError("it is not readable as YAML or JSON") from error
        following = "".join(text.splitlines()[mark.line :][:1])[mark.column :]
        problem = ": indent with spaces instead of the tab" if following.startswith("\t") else ""
        if isinstance(error, DuplicateKeyError):
            problem = ": this name appears twice"
        where = f"at line {mark.line + 1}, column {mark.column + 1}"
        raise FormatError(f"it is not readable as YAML or JSON {where}{problem}") from error
    except (YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise FormatError("it is not readable as YAML or JSON") from error


def write_yaml(value: Any) -> str:
    """Write plain values (mappings, lists, text, numbers, None) as YAML that `read_yaml` reads back.

    Raises:
        MissingDependencyError: ruamel.yaml is not installed.
    """
    stream = io.StringIO()
    _yaml().dump(value, stream)
    return stream.getvalue()


def _yaml() -> Any:
    try:
        from ruamel.yaml import YAML
    except ImportError as error:
        raise MissingDependencyError("recipes need ruamel.yaml: pip install ruamel.yaml") from error
    yaml = YAML(typ="safe", pure=True)  # the C parser supports YAML 1.1 only
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    return yaml
