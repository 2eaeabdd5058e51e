"""Finds raydc's own error inside what Ray wraps around it. Runs in the driver."""

from __future__ import annotations

from collections.abc import Iterator

from raydc.errors import RaydcError


def find_cause(error: BaseException) -> RaydcError | None:
    """Finds raydc's own error inside what Ray wrapped around it; None if there is none."""
    seen: set[int] = set()
    for inner in _causes(error, seen):
        if isinstance(inner, RaydcError) and type(inner) is not RaydcError:
            return _plain(inner)
    return None


def _plain(error: RaydcError) -> RaydcError:
    # Ray makes a class on the fly that inherits from RayTaskError and from the error's own class;
    # the original is its `cause`.
    if hasattr(error, "cause") and isinstance(error.cause, RaydcError):
        return error.cause
    return error


def _causes(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    failures = getattr(error, "worker_failures", None)
    for inner in failures.values() if isinstance(failures, dict) else ():
        yield from _causes(inner, seen)
    for name in ("cause", "__cause__", "__context__", "_healthcheck_error", "error"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            yield from _causes(inner, seen)
