"""YAML without its surprises: plain values only, 1e-7 is a number, and nothing in it can grow."""

from __future__ import annotations

import re
from typing import Any

from pydistill.errors import MissingDependencyError

PREFIX = "tag:yaml.org,2002:"
CORE = {
    "bool": (r"(true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
    "int": (r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z", "-+0123456789"),
    "float": (
        r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z",
        "-+0123456789.",
    ),
}
"""YAML 1.2's forms of plain values, and what they begin with; YAML 1.1 has 1e-7 for a text and 1:30 for 90."""


def yaml_text(value: Any) -> str:
    """The text in YAML that `plain_yaml`, and any reader of YAML 1.1 or 1.2, takes for this plain value.

    Raises:
        MissingDependencyError: pyyaml is not installed.
    """
    yaml = _pyyaml()

    class Dumper(yaml.SafeDumper):  # type: ignore[misc,name-defined]
        """Quotes a text that either version has for something else."""

    for kind, (form, firsts) in CORE.items():
        Dumper.add_implicit_resolver(PREFIX + kind, re.compile(form), list(firsts))
    return str(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def _pyyaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            "a recipe's file needs pyyaml; install it with: pip install 'pydistill[cli]'"
        ) from error
    return yaml


def plain_yaml(text: str) -> Any:
    """The value that a YAML (or JSON) text stands for: mappings, lists, texts, numbers, truth values and null.

    Numbers and truth values have the forms of YAML 1.2's core schema: 010 is ten, on and 1:30 are texts. Aliases are
    refused (a short text of them can stand for more than fits into memory), and so are dates, tags, names that are not
    texts, and a name given twice.

    Raises:
        ValueError: it is something else; the message says where, and shows nothing of the text.
        MissingDependencyError: pyyaml is not installed.
    """
    yaml = _pyyaml()

    class Loader(yaml.SafeLoader):  # type: ignore[misc,name-defined]
        """Plain values only."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            """As it is, without aliases."""
            if self.check_event(yaml.AliasEvent):
                raise ValueError(f"line {self.peek_event().start_mark.line + 1} has an alias, which no recipe needs")
            if self.peek_event().tag is not None:
                raise ValueError(f"line {self.peek_event().start_mark.line + 1} has a tag, which no recipe needs")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """As it is, without names given twice."""
            names = set()
            for name, _ in node.value:
                if not isinstance(name, yaml.ScalarNode):
                    raise ValueError(f"line {name.start_mark.line + 1} has a name that is no text")
                if name.value in names:
                    raise ValueError(f"line {name.start_mark.line + 1} gives a name that was given before; keep one")
                names.add(name.value)
            return super().construct_mapping(node, deep)

        def construct_int(self, node: Any) -> int:
            """In decimal, in octal after 0o and in hexadecimal after 0x."""
            base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
            return int(node.value, base)

    kept = {
        first: [(tag, form) for tag, form in forms if tag.removeprefix(PREFIX) not in CORE]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.yaml_implicit_resolvers = kept
    for kind, (form, firsts) in CORE.items():
        Loader.add_implicit_resolver(PREFIX + kind, re.compile(form), list(firsts))
    Loader.add_constructor(PREFIX + "int", Loader.construct_int)
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
