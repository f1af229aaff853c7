"""The errors that pydistill raises: each message is one sentence that says what is wrong and how to mend it."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable

_SHORT = reprlib.Repr()
_SHORT.maxstring = 80


def shown(value: object) -> str:
    """Show a value in an error message: a number, text or a list of them itself, of anything else its type."""
    items = value if isinstance(value, (list, tuple)) else [value]
    plain = all(item is None or isinstance(item, (bool, int, float, str)) for item in items)
    return _SHORT.repr(value) if plain else f"a {type(value).__name__}"


class Name(str):
    """The dotted name of a setting or an argument in a message, such as distill.steps."""


class PydistillError(Exception):
    """Base of every error that pydistill raises on purpose.

    Attributes:
        args: the message, in parts of text and names.
        spell: how the user writes a name: `--distill.steps` on the command line.
    """

    spell: Callable[[str], str] = str

    def __str__(self) -> str:
        return "".join(self.spell(part) if isinstance(part, Name) else str(part) for part in self.args)


class InputError(PydistillError, ValueError):
    """An argument or a setting is outside its limits; the message names it, its value and the limits."""


class SettingError(InputError):
    """A setting or an argument is of the wrong type, or outside its limits.

    Attributes:
        setting: its dotted name, such as distill.steps; empty for the settings as a whole.
        value: the refused value.
        allowed: what it must be, the end of "NAME must be …".
        hint: the remedy, where `allowed` does not say it.
        source: the file that the value comes from, or nothing.
    """

    def __init__(self, setting: str, value: object, allowed: str, hint: str = "") -> None:
        super().__init__(setting, value, allowed, hint)
        self.setting, self.value, self.allowed, self.hint = setting, value, allowed, hint
        self.source = ""

    def __str__(self) -> str:
        sentence = f"{self.spell(self.setting) if self.setting else 'the settings'} {self._reason()}"
        return f"{self.source}: {sentence}" if self.source else sentence

    def _reason(self) -> str:
        return f"must be {self.allowed}, not {shown(self.value)}{f'; {self.hint}' if self.hint else ''}"


class UnknownSettingError(SettingError):
    """There is no setting of this name.

    Attributes:
        known: the names that there are in its group.
    """

    def __init__(self, setting: str, known: Iterable[str]) -> None:
        self.known = tuple(known)
        super().__init__(setting, None, ", ".join(self.known))
        self.args = (setting, self.known)

    def _reason(self) -> str:
        group, dot, name = self.setting.rpartition(".")
        near = difflib.get_close_matches(name, self.known, 1)
        hint = f"did you mean {self.spell(f'{group}{dot}{near[0]}')}?" if near else f"there are {self.allowed}"
        return f"is not a setting; {hint}"


class FormatError(PydistillError, ValueError):
    """A file is truncated, corrupt, hostile, or of a format that this version cannot read."""


class MismatchError(PydistillError, ValueError):
    """Two things that must agree (experts and student, run and configuration) do not; the message names both."""


class BackendError(PydistillError, RuntimeError):
    """The requested backend cannot run the model; the message names one that can."""


class DivergedError(PydistillError, RuntimeError):
    """The optimisation diverged; the message names the setting to change."""


class MissingDependencyError(PydistillError, ImportError):
    """An optional package is missing; the message says how to install it."""


class OutOfMemoryError(PydistillError, MemoryError):
    """Something does not fit into memory; the message says which setting needs less."""


class Interrupted(PydistillError):
    """A run was interrupted (Ctrl-C) and its state is saved; the message says how to continue."""
