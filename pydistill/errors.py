"""The errors that pydistill raises: each message is one sentence that says what is wrong and how to mend it."""

from __future__ import annotations


class PydistillError(Exception):
    """Base of every error that pydistill raises on purpose."""


class InputError(PydistillError, ValueError):
    """An argument or a setting is outside its limits; the message names it, its value and the limits."""


class FormatError(PydistillError, ValueError):
    """A file is truncated, corrupt, hostile, or of a format that this version cannot read."""


class MismatchError(PydistillError, ValueError):
    """Two things that must agree (experts and student, run and configuration) do not; both are named."""


class BackendError(PydistillError, RuntimeError):
    """A backend asked for by name cannot run the model; the message says which can."""


class DivergedError(PydistillError, RuntimeError):
    """The optimisation left the finite numbers more often than it may; the message names the knob to turn."""


class MissingDependencyError(PydistillError, ImportError):
    """An optional package is needed for what was asked; the message says which, and how to install it."""


class OutOfMemoryError(PydistillError, MemoryError):
    """A student's training did not fit into memory; the message says which setting lowers it."""


class Interrupted(PydistillError):
    """A run was asked to stop (Ctrl-C) and its state is saved; the message says how to continue."""
