"""Errors of a command that raydc did not raise, as one message with a hint. Runs in the driver."""

from __future__ import annotations

import traceback

from raydc.errors import RaydcError, RunError, TrainError, os_error_hint


def os_error(error: OSError, command: str) -> RaydcError:
    """The message of an error of the operating system, with a hint derived from its number.

    Args:
        error: Error that no part of the command has handled.
        command: What was being done, for an error that names no file.
    """
    text = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        return RunError(f"{error.filename}: {text}", os_error_hint(error))
    place = _place(error)
    return RunError(f"{command} failed{place}: {text}", os_error_hint(error))


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
