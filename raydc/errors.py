"""All errors that raydc raises on purpose, with the exit code of the command line for each.

    RaydcError                1   base of all; never raised itself
    ├── UsageError            2   a wrong command, flag or argument
    ├── SpecError             2   one or more problems of a spec, each with its place
    ├── DataError             3   a source, a row or a prepared data set that cannot be used
    │   └── TooManyPixelsError 3  images over the limit of pixels
    ├── CheckpointError       4   a checkpoint or a bundle that is missing or does not verify
    │   └── FormatError       4   one that a newer version of raydc wrote
    ├── RunError              5   a run that exists, is missing or has changed
    ├── TrainError            6   training ended without a model
    ├── RegistryError         7   an unknown model, version or alias
    ├── ServeError            8   an endpoint that did not come up, or that refused
    │   ├── RefusedError      8   it refused a request and would refuse it again
    │   └── UnavailableError  8   it gave no answer in time
    ├── ClusterError          9   no cluster, or one that is too small
    ├── ChaosError           10   a chaos run that ended differently from an undisturbed one
    └── OvertakenError       11   another command changed the model's aliases or endpoint first

An error says what is wrong and, in `hint`, what to do next. All of them cross process boundaries:
the default reduction of an exception (class, args, attributes) restores them as long as `__init__`
can be called with `args`, which a test checks for each class. Pure; used in every process.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

# Shows one line to the user: `print`, or a method with the same effect.
Say = Callable[[str], None]

# Hint of an error that nobody foresaw.
REPORT_IT = "This is probably a fault of raydc: please report it, with this message and the spec."

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

# difflib is quadratic in the length of a name, and names may come from a request.
_MAX_COMPARED_CHARS = 100


class RaydcError(Exception):
    """Base of all errors that raydc raises on purpose.

    Args:
        message: What is wrong, where, and the offending value, in one sentence.
        hint: What the reader can do about it; None if that is not known.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(RaydcError):
    """A wrong command, flag or argument."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One problem of a spec.

    Attributes:
        where: `file:line:column`, or the `--set` that gave the value.
        path: Dotted path of the field.
        message: What is wrong, with the value.
    """

    where: str
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.path, self.message) if part)


class SpecError(RaydcError):
    """All problems of a spec at once."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        # `args` must restore the error when it is unpickled in another process.
        self.args = (problems,)
        self.problems = problems


class DataError(RaydcError):
    """A source, a row or a prepared data set that cannot be used."""

    exit_code = 3


class TooManyPixelsError(DataError):
    """Images with more pixels than allowed; the limit holds before they are decoded."""


class CheckpointError(RaydcError):
    """A checkpoint or a bundle that is missing, torn or does not match its manifest."""

    exit_code = 4


class FormatError(CheckpointError):
    """A checkpoint or a bundle that a newer version of raydc wrote.

    It is not damaged, so it is neither skipped nor set aside, as damaged ones are.
    """


class RunError(RaydcError):
    """A run that exists already, is missing, or has changed under its name."""

    exit_code = 5


class TrainError(RaydcError):
    """Training ended without a model."""

    exit_code = 6


class RegistryError(RaydcError):
    """An unknown model, version or alias."""

    exit_code = 7


class ServeError(RaydcError):
    """An endpoint that did not come up, or that refused a request.

    Args:
        message: What is wrong, where, and the offending value.
        hint: What the reader can do about it; None if that is not known.
        status: HTTP status of the answer; None if there was none.
        request_id: Request id in the access log of the endpoint; None if no request is meant.
    """

    exit_code = 8

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        *,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.request_id = request_id


class RefusedError(ServeError):
    """The endpoint refused a request, and would refuse it again."""


class UnavailableError(ServeError):
    """The endpoint gave no answer within the time or the attempts of a call."""


class ClusterError(RaydcError):
    """No cluster at the address, or one that is too small for the spec."""

    exit_code = 9


class ChaosError(RaydcError):
    """A chaos run that ended differently from an undisturbed one."""

    exit_code = 10


class OvertakenError(RaydcError):
    """Another command changed the aliases or the endpoint of a model first; its change stands."""

    exit_code = 11


def shown(value: object, max_chars: int = 80) -> str:
    """Formats a value for a message: its repr, cut to a length.

    Args:
        value: Any value, from a spec, a row or a request.
        max_chars: Length from which the end is cut off and replaced by `...`.
    """
    # A request may hold megabytes, or a number too long for `str` (Python limits the digits).
    if isinstance(value, str):
        value = value[: max_chars + 1]
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= max_chars else f"{text[: max_chars - 3]}..."


def os_error_hint(error: OSError) -> str | None:
    """What helps against an error of the operating system; None if its number does not tell."""
    return _HINTS.get(error.errno or 0)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message that has text.

    Args:
        error: Any exception. `TimeoutError()` has no text and gives an empty string.
    """
    return next((line for line in str(error).splitlines() if line.strip()), "")


def unexpected(error: BaseException) -> str:
    """Describes an error that nobody foresaw: its type, its message, and where it was raised.

    Args:
        error: Exception that nothing in raydc raised on purpose.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line(error)}{place}"


def describe(error: BaseException) -> str:
    """Returns the class of an error and the first line of its message, for a warning."""
    return f"{type(error).__name__}: {first_line(error)}".removesuffix(": ")


def last_line(error: BaseException) -> str:
    """Returns the last line of an error's message that has text, or the name of its class.

    Args:
        error: Any exception. The last line of a message with a traceback is the cause.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def close_names(name: object, known: Iterable[str], num: int = 1) -> list[str]:
    """Known names that resemble a wrong one.

    Args:
        name: The wrong name; a value that is not a string is compared by its text.
        known: Names that would be valid.
        num: Maximum number of names to return.

    Returns:
        Up to `num` names, the most similar first.
    """
    # A single suggestion has to be probable; in a list of several a wrong one does little harm.
    cutoff = 0.6 if num == 1 else 0.5
    return difflib.get_close_matches(str(name)[:_MAX_COMPARED_CHARS], list(known), num, cutoff)


def did_you_mean(
    name: object, known: Iterable[str], num: int = 1, starts_sentence: bool = False
) -> str:
    """A suggestion for a message or a hint.

    Args:
        name: The wrong name; a value that is not a string is compared by its text.
        known: Names that would be valid.
        num: Maximum number of names to suggest.
        starts_sentence: Whether the text starts with a capital letter, as a hint does.

    Returns:
        "did you mean x?", "did you mean x or y?", or "" if no known name is similar.
    """
    close = close_names(name, known, num)
    return f"{'Did' if starts_sentence else 'did'} you mean {' or '.join(close)}?" if close else ""


@contextlib.contextmanager
def with_notes(notes: Callable[[], list[str]]) -> Iterator[None]:
    """Adds notes to an exception that is raised inside the block.

    Args:
        notes: Returns the notes, such as rank, step and row ids. Called only on an exception.
    """
    try:
        yield
    # User code may call `sys.exit`, which is as unexpected here as any other error.
    except (Exception, SystemExit) as error:
        for note in notes():
            error.add_note(note)
        raise
