"""Failures of workers, as they come up in a loop."""

from __future__ import annotations

from raydc.elastic import worker_failure
from raydc.elastic.worker_failure import WorkerFailure


def make_failure(message: str = "cat", step: int = 3, rank: int = 0) -> WorkerFailure:
    """A ValueError with the notes that the loop adds."""
    try:
        raise ValueError(message)
    except ValueError as error:
        error.add_note(f"after step {step}")
        error.add_note(f"its 2 training rows there: {rank}, 7")
        return worker_failure.describe(error, rank)
