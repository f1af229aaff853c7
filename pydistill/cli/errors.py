"""Report an error as one sentence on stderr and map it to an exit status."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence

from pydistill._util.memory import keep_freed_memory
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
}
_WRONG_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
_MEMORY = "out of memory; use fewer or smaller images, a smaller network or batch, or another device"


def guarded(run: Callable[[list[str]], int], arguments: Sequence[str] | None) -> int:
    """Run a command with `arguments`, by default the process's, without --debug; return the exit status.

    An error is printed as one line on stderr, with its remedy; with --debug it is raised, so that its traceback shows.
    """
    if arguments is None:  # the process is this command's
        keep_freed_memory()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    if not logging.root.handlers:  # leave a calling program's logging alone
        logging.basicConfig(format=f"{PREFIX}%(message)s")
        logging.getLogger("pydistill").setLevel(logging.INFO)  # other packages: warnings only
    try:
        status = run([word for word in words if word != "--debug"])
        if sys.stdout is not None:  # it is None if the shell closed it
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # a reader such as `head` has closed the pipe
        _close_stdout()
        return DONE
    except KeyboardInterrupt:
        _print("stopped")
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and not isinstance(error, PydistillError):
            _close_stdout()  # stdout may be what cannot be written, and Python would flush it again at exit
        _print(one_line(error) if isinstance(error, Interrupted) else f"error: {sentence(error)}")
        return exit_status(error)


def exit_status(error: Exception) -> int:
    """Return the exit status for an error."""
    from pydistill._util.files import PathError

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
    from pydistill._util.memory import is_out_of_memory  # imports torch

    if is_out_of_memory(error):
        return f"{_MEMORY} ({one_line(error):.120})"
    return f"unexpected {type(error).__name__}: {one_line(error):.200}; please report it, with the output of --debug"


def one_line(error: Exception) -> str:
    """Return the message of an error with line breaks replaced by spaces."""
    return " ".join(str(error).split())


def _print(line: str) -> None:
    if sys.stderr is not None:
        print(f"{PREFIX}{line}", file=sys.stderr)


def _close_stdout() -> None:
    """Discard the unwritten output of stdout."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
