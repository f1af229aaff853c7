"""Parser of the command line: argparse, plus a flag `--group.setting VALUE` for every setting."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from pydistill.errors import FormatError, InputError, SettingError

if TYPE_CHECKING:
    from pydistill._util.settings import Described, Settings


_KINDS: dict[Any, str] = {int: "an integer", float: "a number"}


class Group(NamedTuple):
    """A group of settings: name, a line of help, settings with their defaults, and whether --help lists it."""

    name: str
    help: str
    settings: list[Described]
    listed: bool


class Parser(argparse.ArgumentParser):
    """An argument parser that raises InputError with sentences of ours, and accepts hyphens or underscores in flags.

    Args:
        optional: treat no flag as required, for --print_config.
    """

    def __init__(self, *, optional: bool = False, **options: Any) -> None:
        self._optional = optional
        self.names: dict[str, str] = {}  # argument → its flag, as the user types it
        self.groups: list[Group] = []
        super().__init__(**({"allow_abbrev": False, "exit_on_error": False} | options))

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add a flag or a positional argument, as argparse does."""
        if self._optional:
            options.pop("required", None)
        if "choices" in options or options.get("type") in _KINDS:
            options["type"] = _converter(options.get("type", str), options.get("choices"))
        return self.record_flag(super().add_argument(*names, **options))

    def record_flag(self, action: argparse.Action) -> argparse.Action:
        """Remember the flag of an argument, for error messages."""
        self.names[action.dest] = action.option_strings[-1] if action.option_strings else action.dest.upper()
        return action

    def add_settings(self, name: str, help: str, settings: Settings, *, listed: bool = True) -> None:
        """Add a flag for every setting of a group; --help shows them if `listed`."""
        from pydistill._util.settings import described_settings

        self.groups.append(Group(name, help, list(described_settings(settings, f"{name}.")), listed))

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse a command line; `settings` of the result are (dotted name, value) pairs in the order of the flags.

        Raises:
            InputError: an unknown or a missing flag, or a value that argparse refuses.
        """
        rest, settings = self._split(words)
        try:
            values, unknown = self.parse_known_args(rest)
        except argparse.ArgumentError as error:
            name = error.argument_name or ""
            self.error(f"{self.names.get(name, name)} {error.message}".strip())
        if unknown:
            flag = unknown[0].partition("=")[0]
            if not flag.startswith("-"):
                self.error(f"{flag!r} is one argument too many; a flag's name goes before its value")
            if flag[2:] in {group.name for group in self.groups}:
                self.error(f"{flag} is a group of settings; give one of them, as {flag}.SETTING VALUE")
            self.error(f"there is no flag {flag}{did_you_mean(flag, [*self.names.values(), *self._settings_flags()])}")
        values.settings = settings
        return values

    def spell(self, setting: str) -> str:
        """Return the flag of a setting or an argument, or its plain name if it has none."""
        if setting.partition(".")[0] in {group.name for group in self.groups} or "." in setting:
            return f"--{setting}"
        return self.names.get(setting, setting)

    def error(self, message: str) -> NoReturn:
        """Raise InputError, where argparse prints the usage and exits."""
        raise InputError(f"{message} ({self.prog} --help lists the flags)")

    def _settings_flags(self) -> list[str]:
        return [f"--{setting.name}" for group in self.groups for setting in group.settings]

    def _split(self, words: Sequence[str]) -> tuple[list[str], list[tuple[str, Any]]]:
        """Separate the flags of settings, with their values, from the other arguments."""
        flags = {flag.replace("-", "_"): flag for flag in self.names.values()}
        described = {setting.name: setting for group in self.groups for setting in group.settings}
        rest: list[str] = []
        settings: list[tuple[str, Any]] = []
        remaining = iter(words)
        for word in remaining:
            flag, equals, text = word.partition("=")
            name = flag[2:].replace("-", "_")
            if not self.groups or not flag.startswith("--") or "." not in name:
                rest.append(flags.get(flag.replace("-", "_"), flag) + equals + text)
                continue
            if name.partition(".")[0] not in {group.name for group in self.groups}:
                self.error(f"there is no flag {flag}{did_you_mean(flag, self._settings_flags())}")
            if not equals:
                text = next(remaining, "--")
                if text.startswith("--"):
                    raise InputError(f"--{name} needs a value")
            settings.append((name, _read(name, text, described)))
        return rest, settings


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `; did you mean …?` with the choice nearest to a word, or nothing."""
    names = list(choices)
    last = word.lstrip("-").rpartition(".")[2]
    near = [name for name in names if name.lstrip("-").rpartition(".")[2] == last][:3]
    near = near or difflib.get_close_matches(word, names, 1)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _converter(kind: Callable[[str], Any], choices: Sequence[Any] | None) -> Callable[[str], Any]:
    """Return the argument type that converts a text to a number or one of the choices."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {_KINDS[kind]}, not {text!r}") from None
        if choices is not None and value not in choices:
            *most, last = map(str, choices)
            allowed = f"{', '.join(most)} or {last}" if most else last
            raise argparse.ArgumentTypeError(f"must be {allowed}, not {text!r}")
        return value

    return convert


def _read(name: str, text: str, described: Mapping[str, Described]) -> Any:
    """Parse the value of a flag: as text where the setting allows text, else, also for a group in a group, as YAML."""
    from pydistill.recipes.yaml import read_yaml

    setting = described.get(name)
    if setting is not None and setting.textual:
        return None if text == "null" else text
    if setting is None and not any(other.startswith(f"{name}.") for other in described):
        return text  # no such setting: refused by name
    try:
        return read_yaml(text)
    except FormatError as error:
        allowed = "settings by name such as {name: value}" if setting is None else setting.allowed
        raise SettingError(name, text, allowed) from error
