"""YAML without its surprises: plain values only, 1e-7 is a number, and nothing in it can grow."""

from __future__ import annotations

import re
from typing import Any

from pydistill.errors import MissingDependencyError


def plain_yaml(text: str) -> Any:
    """The value that a YAML (or JSON) text stands for: mappings, lists, texts, numbers, truth values and null.

    Aliases are refused (a short text of them can stand for more than fits into memory), and so are dates, tags, and
    names that are not texts.

    Raises:
        ValueError: it is something else; the message says where, and shows nothing of the text.
        MissingDependencyError: pyyaml is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            "a recipe's file needs pyyaml; install it with: pip install 'pydistill[cli]'"
        ) from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Plain values only."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            """As it is, without aliases."""
            if self.check_event(yaml.AliasEvent):
                raise ValueError(f"line {self.peek_event().start_mark.line + 1} has an alias, which no recipe needs")
            return super().compose_node(parent, index)

    # YAML 1.1 takes 1e-7 for a text, as it has no point.
    number = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    try:
        value = yaml.load(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "somewhere"
        raise ValueError(f"{where} does not belong there") from error
    except yaml.YAMLError as error:
        raise ValueError("it holds characters that a text does not have") from error
    except (RecursionError, OverflowError) as error:
        raise ValueError("it is nested too deeply, or holds too large a number") from error
    _check(value)
    return value


def _check(value: Any) -> None:
    if isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str):
                raise ValueError(f"a setting's name is a {type(name).__name__} and must be a text")
            _check(each)
    elif isinstance(value, list):
        for each in value:
            _check(each)
    elif value is not None and not isinstance(value, (str, bool, int, float)):
        raise ValueError(f"it holds a {type(value).__name__}, and no setting is one")
