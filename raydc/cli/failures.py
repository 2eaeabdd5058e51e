"""Errors of a command that raydc did not raise, as one message with a hint. Runs in the driver."""

from __future__ import annotations

import errno
import traceback

from raydc.errors import RaydcError, RunError, TrainError

# What helps depends on the error, not on the place.
_HINTS = {
    errno.ENOSPC: "Make space there.",
    errno.EDQUOT: "The quota of this user is used up: make space there.",
    errno.EACCES: "May this user read and write there?",
    errno.EPERM: "May this user read and write there?",
    errno.EROFS: "The filesystem is read-only: choose another place.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "A part of this path is a file, not a folder.",
    errno.EISDIR: "This is a folder, not a file.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EMFILE: "Too many files are open: raise the limit (`ulimit -n`).",
    errno.ENFILE: "Too many files are open on this machine.",
    errno.ENOMEM: "Memory is used up: stop other processes, or use less.",
    errno.EIO: "The disk or the network storage reports a fault.",
    errno.ETIMEDOUT: "Is the other side up? Then try again.",
    errno.ECONNREFUSED: "Does anything listen there? Check the address.",
    errno.ECONNRESET: "The other side closed the connection: try again.",
}


def os_error(error: OSError, command: str) -> RaydcError:
    """The message of an error of the operating system, with a hint derived from its number.

    Args:
        error: Error that no part of the command has handled.
        command: What was being done, for an error that names no file.
    """
    text = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        return RunError(f"{error.filename}: {text}", _HINTS.get(error.errno or 0))
    place = _place(error)
    return RunError(f"{command} failed{place}: {text}", _HINTS.get(error.errno or 0))


def foreign_exit(error: BaseException) -> RaydcError:
    """The message of a SystemExit or KeyboardInterrupt that the code of a model has raised."""
    code = f"({error.code!r})" if isinstance(error, SystemExit) else ""
    return TrainError(
        f"the command was ended by {type(error).__name__}{code}{_place(error)}",
        "Code of a model must raise an exception instead, such as ValueError.",
    )


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
