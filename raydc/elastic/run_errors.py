"""Messages of a driver whose workers cannot start or have failed too often. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from raydc import plan
from raydc.elastic.worker_failure import WorkerFailure
from raydc.errors import ClusterError, TrainError, describe, first_line
from raydc.loop.lost_peer import PeerLostError
from raydc.spec import ResolvedSpec

_RESUME = "Pass --resume to continue from the last checkpoint once the cause is gone."
_DEATH_HINT = (
    "Was memory used up (`dmesg`)? Its last output is in worker-*.err of "
    "/tmp/ray/session_latest/logs on its host."
)


def describe_lack(spec: ResolvedSpec, total: Mapping[str, float], free: Mapping[str, float]) -> str:
    """Says which resources keep the fewest workers from starting at once.

    Args:
        spec: Resolved spec, for the fewest workers and the resources of each.
        total: Amounts by resource that the cluster has.
        free: Amounts by resource that are unused.

    Returns:
        A sentence without its full stop, or "" if there is room.
    """
    needs = plan.worker_resources(spec, total)
    if plan.how_many(needs, free) >= spec.scaling.min_workers:
        return ""
    amounts = ", ".join(f"{free.get(name, 0.0):g} of {total[name]:g} {name}" for name in needs)
    return f"{spec.scaling.min_workers} worker(s) of {needs} each, but only {amounts} free"


def training_error(
    spec: ResolvedSpec, failures: Mapping[int, BaseException], last_step: int | None = None
) -> TrainError:
    """The error of a run whose workers have failed more often than the spec allows.

    Args:
        spec: Resolved spec, for its limit of failures.
        failures: The failures of the last attempt, by rank.
        last_step: Completed steps that the driver knows of; None if it knows of none.
    """
    causes = {rank: _cause_of(failure) for rank, failure in sorted(failures.items())}
    # The deaths of other ranks followed from the failure on the page, so they are left out.
    if pages := [cause.page for cause in causes.values() if isinstance(cause, WorkerFailure)]:
        alone = "Train with --set scaling.num_workers=0 to see it in this process. "
        here = spec.scaling.max_workers == 0
        return TrainError("\n".join(pages), _RESUME if here else alone + _RESUME)
    # A worker that lost a peer does not know why the peer died; if all did, there is nothing else.
    first_hand = {
        rank: cause for rank, cause in causes.items() if not isinstance(cause, PeerLostError)
    } or causes
    lines = [
        f"rank {rank}: {_describe_death(cause) or describe(cause)}"
        for rank, cause in first_hand.items()
    ]
    limit = spec.fault_tolerance.max_failures
    place = "" if last_step is None else f" after step {last_step}"
    dead = any(_describe_death(cause) for cause in first_hand.values())
    return TrainError(
        f"training failed{place}; fault_tolerance.max_failures is {limit}\n    "
        + "\n    ".join(lines),
        f"{_DEATH_HINT} {_RESUME}" if dead else _RESUME,
    )


def _describe_death(cause: BaseException) -> str:
    """What is known about a process that ended without an error of Python; else empty.

    Only its parent, a process of Ray, sees its exit code, and tells it in words.
    """
    text = str(cause)
    if "OutOfMemory" in type(cause).__name__ or "OOM" in text.split("potential root causes")[0]:
        return "killed by Ray, because its node ran out of memory"
    kind = re.search(r"[Ww]orker exit type: (\w+)", text)
    detail = re.search(r"[Ww]orker exit detail: (.+)", text)
    if not detail:
        return ""
    words = detail[1].partition("There are some potential root causes")[0].strip()
    if "connection error code 2" in words:
        words = "its process is gone without a word: killed, crashed, or ended by os._exit"
    return f"{words} ({kind[1]})" if kind else words


def _cause_of(error: BaseException) -> BaseException:
    """The error inside Ray's wrappers, each of which names it differently."""
    if isinstance(error, WorkerFailure):
        return error
    inner: Any = (
        getattr(error, "cause", None)
        or getattr(error, "health_check_failure", None)
        or error.__cause__
    )
    return inner if isinstance(inner, BaseException) else error


def start_error(
    spec: ResolvedSpec, total: Mapping[str, float], free: Mapping[str, float], cause: BaseException
) -> ClusterError:
    """The error of a run whose workers could not be started.

    Args:
        spec: Resolved spec, for the fewest workers and the resources of each.
        total: Amounts by resource that the cluster has.
        free: Amounts by resource that are unused.
        cause: Error of Ray's controller; its first line is shown.
    """
    needs = plan.worker_resources(spec, total)
    unused = {name: free.get(name, 0.0) for name in needs}
    return ClusterError(
        f"the workers were not started: at least {spec.scaling.min_workers} of {needs} each; "
        f"free now: {unused}; Ray says: {first_line(cause)}",
        "Wait for other jobs, request fewer or smaller workers, or give --address of a larger "
        "cluster.",
    )
