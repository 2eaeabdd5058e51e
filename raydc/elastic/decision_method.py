"""The method of a sweep and its space, from the spec. Runs in the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydc import spec as specs
from raydc.search import Method, rung_epochs
from raydc.spec import ResolvedSpec


def make_method(spec: ResolvedSpec, samples: Sequence[int]) -> Method:
    """The method of a sweep.

    Args:
        spec: The resolved spec of the sweep.
        samples: Numbers of trials with which it has ended or ends, in any order.
    """
    assert spec.sweep is not None
    scheduler, train = spec.sweep.scheduler, spec.train
    # An epoch has one step at least.
    longest = train.epochs or train.max_steps or 1
    rungs = rung_epochs(longest, scheduler.grace_period, scheduler.reduction_factor)
    return Method(
        type=scheduler.type,
        epochs=rungs if scheduler.name == "asha" else (longest,),
        factor=scheduler.reduction_factor,
        mode=train.mode,
        samples=tuple(sorted({*samples})),
    )


def plain_space(spec: ResolvedSpec) -> dict[str, Any]:
    """The search space of a sweep without the kinds of domains that it does not use."""
    space = (specs.to_dict(spec)["sweep"] or {})["space"]
    return {
        path: {kind: value for kind, value in domain.items() if value is not None}
        for path, domain in space.items()
    }
