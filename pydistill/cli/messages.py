"""What jsonargparse says of a wrong word or value, said as a person would and with what to write instead."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

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

LONGEST = 80
"""Letters of a value that a message shows."""


def one_line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split())


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean …?` with the nearest of the known names and those about as near, or nothing.

    Args:
        prefix: what is written before each of them.
    """
    near = difflib.get_close_matches(word, list(known), 3, cutoff=0.6)
    best = _likeness(word, near[0]) if near else 0.0
    near = [f"{prefix}{each}" for each in near if _likeness(word, each) > best - 0.1]
    return f"; did you mean {_either(near)}?" if near else ""


def _likeness(word: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, word).ratio()


def as_given(message: str, given: Sequence[str]) -> str:
    """A message that begins with the name of a setting, with that of the one flag of the command that has its value."""
    words = re.match(r"[a-z_]+", message)
    name = words[0] if words else ""
    flags = []
    for word, after in zip(given, [*given[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag.endswith(f".{name}") and (value if equals else after) in message:
            flags.append(flag.removeprefix("--"))
    return flags[0] + message[len(name) :] if len(flags) == 1 else message


def said(text: str, parser: Any, given: Sequence[str]) -> str:
    """The message of a parser in a person's words.

    Args:
        text: what jsonargparse says, in one line.
        parser: that refused.
        given: the words that it was given.
    """
    for pattern, told in (
        (r"the following arguments are required: (.*)", _missing),
        (r"[Uu]nrecognized arguments: (.*)", _unknown),
        (r"argument (?P<flag>\S+): invalid choice: (?P<value>.*) \(choose from (?P<known>.*)\)", _choice),
        (r"argument (\S+): expected (?:at least )?one argument", _no_value),
        (r'Parser key "(?P<group>[a-z]+)": Unable to load config .*', _whole_group),
        (r"argument (?P<flag>\S+): ignored explicit argument (?P<value>.*)", _no_argument),
    ):
        found = re.fullmatch(pattern, text)
        if found is not None:
            return told(found, parser, given)
    return setting_error(text, prefix="--")


def too_large(given: Sequence[str]) -> str:
    """What is told of a whole number larger than a real one can be; the flag is named if it was a flag's.

    Args:
        given: the words of the command line; none of a recipe's file.
    """
    for word, after in zip(given, [*given[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and re.fullmatch(r"[-+]?\d{300,}", value if equals else after):
            return f"{flag} must be a number below 1e308, not one of {len(value if equals else after)} digits"
    return "one of its numbers has hundreds of digits, and must be below 1e308"


def setting_error(text: str, prefix: str = "") -> str:
    """jsonargparse's message about a value of the wrong kind, said without Python's types; others as they are."""
    found = re.search(r'Parser key "([^"]+)":', text)
    if found is None:
        return text
    name = f"{prefix}{found[1]}"
    if "integer string conversion" in text:
        return f"{name} must be a value of fewer digits, not one of thousands"
    # Of a union all the kinds are told, then what each of them says of the value, and at the end the value.
    union = re.search(r"Subtypes: (.*?) Errors: .* Given value: ?(.*)", text)
    found_value = union or re.search(r"(.*?)(?:Got|Given) value: ?(.*)", text)
    asked = text if found_value is None else found_value[1]
    literal = re.search(r"Literal\[(.*?)\]", asked)
    kinds = [
        KINDS[kind] for kind in dict.fromkeys(re.findall(r"(?:<class '|\b)(\w+)(?:'>|\[)", asked)) if kind in KINDS
    ]
    if literal is not None:
        kinds = [*[each.strip(" '\"") for each in literal[1].split(",")], *(["null"] if "null" in kinds else [])]
    nested = re.search(r"NestedArg\(key='([^']*)'", text)
    if nested is not None:
        return f"{name}.{nested[1]}: {_augmentation(nested[1])}"
    if found_value is None or not kinds:
        return text.replace(found[0], f"{name}:")
    if kinds == ["null"]:
        kinds = ["null", "settings such as {flip: 0.5}"]
    return f"{name} must be {_either(kinds)}, not {_shown(found_value[2])}"


def _shown(value: str) -> str:
    """A value in a message: one that is empty by a word, of a long one its beginning."""
    return value if 0 < len(value) <= LONGEST else f"{value[: LONGEST - 2]} …" if value else "empty"


def _augmentation(word: str) -> str:
    from pydistill.data.dsa import DsaSettings

    known = [each.name for each in fields(DsaSettings)]
    if word in known:
        return "it does not take such a value"
    return f"there is no such setting{nearest(word, known) or '; there are ' + ', '.join(known)}"


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _options(parser: Any) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]


def _missing(found: re.Match[str], parser: Any, given: Sequence[str]) -> str:
    told = []
    for name in found[1].split(", "):
        action = next((each for each in parser._actions if each.dest == name), None)
        word = name.upper() if action is None or not action.option_strings else action.option_strings[-1]
        told.append(f"{word} ({action.help})" if action is not None and action.help != argparse.SUPPRESS else word)
    return f"{' and '.join(told)} {'is' if len(told) == 1 else 'are'} missing"


def _unknown(found: re.Match[str], parser: Any, given: Sequence[str]) -> str:
    word = found[1].split()[0]
    flag = word.partition("=")[0]
    if not word.startswith("-"):
        return f"{word!r} is one word too many; a flag's name goes before it"
    known = _options(parser)
    if flag in known:  # and yet not recognised: with a blank in it
        return f"{flag} and its value came as one argument; give them apart, without quotes around both"
    group, _, setting = flag.removeprefix("--").rpartition(".")
    siblings = [option for option in known if option.startswith(f"--{group}.")]
    if siblings:  # the group that they share makes none of them nearer
        hint = nearest(setting, [each.rpartition(".")[2] for each in siblings], f"--{group}.")
    else:
        hint = nearest(flag, known)
    same = [option for option in known if option.endswith(f".{flag.removeprefix('--')}")]
    if not hint and same:
        hint = f"; did you mean {_either(same[:3])}?"
    return f"there is no flag {flag}{hint}"


def _choice(found: re.Match[str], parser: Any, given: Sequence[str]) -> str:
    known = [each.strip(" '\"") for each in found["known"].split(",")]
    return f"{found['flag'].split('/')[-1]} must be {_either(known)}, not {found['value'].strip(chr(39))}"


def _no_value(found: re.Match[str], parser: Any, given: Sequence[str]) -> str:
    flags = found[1].split("/")
    flag = next((each for each in flags if each in given), flags[0])
    return f"{flag} needs a value behind it"


def _no_argument(found: re.Match[str], parser: Any, given: Sequence[str]) -> str:
    return f"{found['flag']} takes no value; leave out {found['value']}"


def _whole_group(found: re.Match[str], parser: Any, given: Sequence[str]) -> str:
    group = found["group"]
    first = f"{group}.name" if group in ("model", "data") else f"{group}.seed"
    return f"--{group} takes no value of its own, only its settings do: --{first} VALUE, say"
