"""From an error to the sentence that a person reads, and the exit status."""

from __future__ import annotations

import errno

from pydistill._util.files import PathError
from pydistill.cli import status
from pydistill.cli.messages import one_line
from pydistill.errors import FormatError, InputError, Interrupted, MismatchError, PydistillError

_REMEDIES = {
    errno.ENOENT: "does not exist; check how it is spelt",
    errno.EACCES: "may not be opened by you; change its permissions or choose another",
    errno.EPERM: "may not be opened by you; change its permissions or choose another",
    errno.EISDIR: "is a folder, and a file is wanted; name a file",
    errno.ENOTDIR: "lies below a file, and a folder is wanted; choose another place",
    errno.EROFS: "lies on a disk that cannot be written; choose another place",
    errno.ENAMETOOLONG: "is too long a name; choose a shorter one",
}
_WRONG_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
_MEMORY = "out of memory; take fewer or smaller images, a smaller network or batch, or another --device"


def told(error: Exception) -> tuple[str, int]:
    """The sentence and the exit status of an error."""
    if isinstance(error, Interrupted):
        return one_line(error), status.INTERRUPTED
    if isinstance(error, PydistillError):
        sentence = one_line(error)
        if isinstance(error, FormatError) and "; " not in sentence:
            sentence += "; get the file again from where it came, or make it anew"
        wrong = isinstance(error, (InputError, MismatchError, PathError))
        return sentence, status.USAGE if wrong else status.FAILED
    if isinstance(error, OSError):
        return _of_the_system(error), status.USAGE if error.errno in _WRONG_PATHS else status.FAILED
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate" in str(error):
        return f"{_MEMORY} ({one_line(error):.120})", status.FAILED
    what = f"{type(error).__name__}: {one_line(error):.200}"
    return f"{what}; this is not foreseen: --debug shows where it happens, please report that", status.FAILED


def _of_the_system(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full; free some room and run the command again"
    if error.filename is not None and error.errno in _REMEDIES:
        return f"{error.filename} {_REMEDIES[error.errno]}"
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{(error.strerror or one_line(error)).lower()}; --debug shows where it happens"
