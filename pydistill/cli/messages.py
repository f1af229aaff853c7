"""What jsonargparse says of a wrong value, said as a person would."""

from __future__ import annotations

import re

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


def one_line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split())


def setting_error(text: str) -> str:
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
