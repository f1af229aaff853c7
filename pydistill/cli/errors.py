"""Report an error as one sentence on stderr and map it to an exit status."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

from pydistill._util.files import PathError, WriteError, check_utf8
from pydistill._util.memory import is_out_of_memory, keep_freed_memory
from pydistill.errors import FormatError, InputError, Interrupted, MismatchError, PydistillError

DONE = 0
FAILED = 1  # the command failed while it ran
USAGE = 2  # wrong usage, a setting outside its limits, or inputs that do not match
INTERRUPTED = 130  # stopped by Ctrl-C, as shells number it

PREFIX = "pydistill: "
_REMEDIES = {
    errno.ENOENT: "does not exist; check its spelling",
    errno.EACCES: "cannot be opened with your permissions; change them or choose another",
    errno.EPERM: "cannot be opened with your permissions; change them or choose another",
    errno.EISDIR: "is a folder; name a file",
    errno.ENOTDIR: "lies below a file; choose another place",
    errno.EROFS: "lies on a read-only disk; choose another place",
    errno.ENAMETOOLONG: "is too long; choose a shorter name",
    errno.ENOSPC: "does not fit on the disk; free some space and run the command again",
    errno.EMFILE: "cannot be opened, as too many files are open; raise the limit (ulimit -n 1024)",
}
_WRONG_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
_MEMORY = "out of memory; use fewer or smaller images, a smaller network or batch, or another device"


def guarded(run: Callable[[list[str]], int], arguments: Sequence[str] | None) -> int:
    """Run a command with `arguments`, by default the process's, without --debug; return the exit status.

    An error is printed as one line on stderr, with its remedy; with --debug it is raised, so that its traceback shows.
    A standard stream that cannot be written is silent from then on and does not change the status.
    """
    if arguments is None:  # the process is this command's
        keep_freed_memory()
        _fill_closed_descriptors()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    if not logging.root.handlers:  # leave a calling program's logging alone
        logging.basicConfig(format=f"{PREFIX}%(message)s")
        logging.getLogger("pydistill").setLevel(logging.INFO)  # other packages: warnings only
    try:
        for word in words:
            check_utf8(word)
        return run([word for word in words if word != "--debug"])
    except KeyboardInterrupt:
        note("stopped")
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        note(one_line(error) if isinstance(error, Interrupted) else f"error: {sentence(error)}")
        return exit_status(error)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush_or_discard(stream)


def print_result(text: str) -> None:
    """Print the result of a command.

    Raises:
        WriteError: stdout is closed, full, or has no reader.
    """
    try:
        if sys.stdout is None:  # the shell closed it
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sys.stdout.write(f"{text}\n")  # at once, so that a reader of the first line, such as `head`, has it all
        sys.stdout.flush()
    except OSError as error:
        raise WriteError(f"the command is done, but its result cannot be printed: {error.strerror}") from error


@contextmanager
def listing() -> Iterator[None]:
    """Print a listing inside this context: a reader such as `head` may stop reading it."""
    with suppress(BrokenPipeError):
        yield
        if sys.stdout is not None:  # the shell closed it
            sys.stdout.flush()


def note(line: str) -> None:
    """Print a line on stderr, if it can be written."""
    if sys.stderr is not None:  # the shell closed it
        with suppress(OSError):
            print(f"{PREFIX}{line}".encode(errors="backslashreplace").decode(), file=sys.stderr)


def exit_status(error: Exception) -> int:
    """Return the exit status for an error."""
    if isinstance(error, Interrupted):
        return INTERRUPTED
    wrong_path = isinstance(error, OSError) and not isinstance(error, PydistillError) and error.errno in _WRONG_PATHS
    return USAGE if wrong_path or isinstance(error, (InputError, MismatchError, PathError)) else FAILED


def sentence(error: Exception) -> str:
    """Format an error as one line with its remedy."""
    if isinstance(error, FormatError) and "; " not in str(error):
        return f"{one_line(error)}; fetch or create the file again"
    if isinstance(error, PydistillError):
        return one_line(error)
    if isinstance(error, OSError):
        name = f"{error.filename}" if error.filename is not None else "a file"
        remedy = _REMEDIES.get(error.errno or 0)
        return f"{name} {remedy}" if remedy else f"{name}: {(error.strerror or one_line(error)).lower()}"
    if is_out_of_memory(error):
        return f"{_MEMORY} ({one_line(error):.120})"
    return f"unexpected {type(error).__name__}: {one_line(error):.200}; please report it, with the output of --debug"


def one_line(error: Exception) -> str:
    """Return the message of an error with line breaks replaced by spaces."""
    return " ".join(str(error).split())


def _fill_closed_descriptors() -> None:
    """Open the descriptors 0–2 that the shell closed, so that no file becomes the stderr that libraries write to."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _flush_or_discard(stream: TextIO | None) -> None:
    """Flush a standard stream, or discard its content if it cannot be written: Python would fail on it at exit."""
    if stream is None:  # the shell closed it
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
