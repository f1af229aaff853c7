"""The errors that pydistill raises: each message is one sentence that says what is wrong and how to mend it."""

from __future__ import annotations


class PydistillError(Exception):
    """Base of every error that pydistill raises on purpose."""


class InputError(PydistillError, ValueError):
    """An argument or a setting is outside its limits; the message names it, its value and the limits."""


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
    """A student's training did not fit into memory; the message says which setting lowers it."""


class Interrupted(PydistillError):
    """A run was interrupted (Ctrl-C) and its state is saved; the message says how to continue."""
