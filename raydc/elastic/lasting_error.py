"""Which errors of a trial are a result of it, and which ones another attempt may not meet.

Runs in the processes that train trials.
"""

from __future__ import annotations

from dataclasses import dataclass

from raydc.elastic.worker_failure import WorkerFailure
from raydc.errors import RaydcError, describe

# Errors of the operating system that another attempt meets again: a path is wrong.
_LASTING = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


@dataclass(frozen=True)
class LastingError:
    """An error that another attempt would meet again.

    Attributes:
        line: The error in a line.
        page: All that is known about it, on several lines.
    """

    line: str
    page: str


class GangError(Exception):
    """A worker that a trial always has met an error that another attempt would meet again."""

    def __init__(self, found: LastingError) -> None:
        super().__init__(found.page)
        self.found = found


def describe_lasting(error: RaydcError | WorkerFailure) -> LastingError:
    """What is recorded of an error that would come again."""
    cause = error.__cause__ if isinstance(error, WorkerFailure) else error
    if isinstance(cause, GangError):
        return cause.found
    return LastingError(describe(cause or error), str(error))


def may_pass(error: BaseException | None) -> bool:
    """Whether the same trial may do better in another process: its machine was at fault."""
    import ray
    import torch

    from raydc.models.device import is_out_of_memory

    passing = (torch.AcceleratorError, ray.exceptions.RayError)
    seen: list[BaseException] = []
    # An error of storage is often the cause of one that says more.
    while error is not None and error not in seen:
        if isinstance(error, passing) or is_out_of_memory(error):
            return True
        if isinstance(error, OSError) and not isinstance(error, _LASTING):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False
