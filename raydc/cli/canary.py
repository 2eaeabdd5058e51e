"""Commands that try a second version next to the stable one: canary, shadow."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from raydc.cli.app import ALIAS, RUNNING, SET, SPEC, WHY, load, report
from raydc.errors import ServeError, UsageError

if TYPE_CHECKING:
    from raydc.serve.control.rollout import CanaryReport, Kind
    from raydc.spec.sections import Spec
    from raydc.storage import Storage

_VERSION = click.option("--version", type=int, help="Version to try.")
# `canary` and `shadow` share these, and differ in the default of --fraction.
_DROP = click.option("--drop", is_flag=True, help="End the canary or shadow.")


@click.command()
@SPEC
@SET
@RUNNING
@_VERSION
@click.option(
    "--fraction",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0.0, 1.0, min_open=True),
    help="Fraction of the requests that it answers, up to 1.",
)
@click.option(
    "--follow",
    is_flag=True,
    help="Wait until the rule serve.canary of the spec promotes or drops it.",
)
@_DROP
@ALIAS
@WHY
def canary(
    spec: str,
    overrides: tuple[str, ...],
    address: str | None,
    version: int | None,
    fraction: float,
    follow: bool,
    drop: bool,
    alias: str | None,
    why: str,
) -> None:
    """Let another version answer a fraction of the requests.

    Without --version, show the counts of the canary."""
    from raydc.serve.control import rollout

    _refuse_both(drop, version)
    given, storage, alias = _open(spec, overrides, alias)
    # Dropping needs no Ray: the record of a canary can outlive its endpoint.
    if drop:
        _end(storage, given.name, alias, "canary", address, why)
        return
    after = _attach(storage, given.name, alias, address)
    if version is not None:
        rollout.start(storage, given.name, alias, "canary", version, fraction, why=why, after=after)
        report(
            f"{given.name}: version {version} answers {fraction:.3g} of the requests to {alias!r}"
        )
    # With --follow the counts are printed as they change.
    elif not follow:
        _show(rollout.observe(storage, given.name, alias))
    if follow:
        _follow(given, storage, alias, why)


def _follow(given: Spec, storage: Storage, alias: str, why: str) -> None:
    from raydc import serve
    from raydc.serve.control import rollout
    from raydc.spec.sections import Serve

    # The rule of the given spec, not of the served one: it may have been tightened since.
    rule = (given.serve or Serve()).canary
    watched = rollout.observe(storage, given.name, alias).traffic.canary
    if watched is None:
        raise ServeError(
            f"{given.name} {alias!r} has no canary",
            "raydc canary SPEC --version N starts one.",
        )
    decision = rollout.follow(
        storage, given.name, alias, watched.version, rule, lambda line: report(f"canary    {line}")
    )
    # The history keeps both: the user's reason and the counts.
    reason = f"{why}; {decision.reason}" if why else decision.reason
    if decision.kind == "promote":
        serve.promote(storage, given.name, alias, watched.version, why=reason)
        report(f"{given.name}: alias {alias!r} is now version {watched.version}: {decision.reason}")
        return
    rollout.end(storage, given.name, alias, "canary", why=reason)
    # An error, so that a script that waits for a promotion stops here.
    raise ServeError(
        f"canary version {watched.version} of {given.name} was dropped: {decision.reason}"
    )


@click.command()
@SPEC
@SET
@RUNNING
@_VERSION
@click.option(
    "--fraction",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.0, 1.0, min_open=True),
    help="Fraction of the requests that it gets copies of, up to 1.",
)
@_DROP
@ALIAS
@WHY
def shadow(
    spec: str,
    overrides: tuple[str, ...],
    address: str | None,
    version: int | None,
    fraction: float,
    drop: bool,
    alias: str | None,
    why: str,
) -> None:
    """Send copies of requests to another version, and compare.

    Without --version, show how many of its answers differ.
    """
    from raydc.serve.control import rollout
    from raydc.spec.language import LANGUAGE

    _refuse_both(drop, version)
    given, storage, alias = _open(spec, overrides, alias)
    if drop:
        _end(storage, given.name, alias, "shadow", address, why)
        return
    after = _attach(storage, given.name, alias, address)
    if version is not None:
        if given.data.task == LANGUAGE:
            raise UsageError(
                "a shadow compares the answers to rows, and a language model has none",
                "`raydc canary` lets another version answer some of the requests.",
            )
        rollout.start(storage, given.name, alias, "shadow", version, fraction, why=why, after=after)
        report(
            f"{given.name}: version {version} gets copies of {fraction:.3g} "
            f"of the requests to {alias!r}"
        )
    else:
        _show(rollout.observe(storage, given.name, alias))


def _refuse_both(drop: bool, version: int | None) -> None:
    if drop and version is not None:
        raise UsageError("--drop and --version exclude each other", "Give only one of them.")


def _open(path: str, overrides: tuple[str, ...], alias: str | None) -> tuple[Spec, Storage, str]:
    from raydc import spec
    from raydc.cli.endpoint_actions import alias_of
    from raydc.storage import Storage

    given = spec.resolve(load(path, overrides))
    return given, Storage(given.storage), alias or alias_of(given)


def _attach(storage: Storage, model: str, alias: str, address: str | None) -> int:
    """Attaches to the Ray that serves an alias; returns the number of the model's history before.

    Raises ServeError if there is no Ray: then there is no endpoint.
    """
    from raydc.cli.endpoint_search import attach_to_endpoint
    from raydc.registry import Registry

    after = Registry(storage).history_number(model)
    found = attach_to_endpoint(storage, model, alias, address)
    if not found.attached:
        where = f"; it was at {found.gone.url}" if found.gone else ""
        raise ServeError(
            f"no endpoint serves {model} {alias!r}: no Ray that could serve it is running{where}",
            "Start it: raydc serve SPEC; or give --address of the cluster that serves it.",
        )
    return after


def _end(
    storage: Storage, model: str, alias: str, kind: Kind, address: str | None, why: str
) -> None:
    """Ends a canary or shadow; without an endpoint, the one in its history."""
    from raydc.cli.endpoint_search import attach_to_endpoint
    from raydc.registry import Registry, user
    from raydc.serve.control import rollout, switchover

    after = Registry(storage).history_number(model)
    attached = attach_to_endpoint(storage, model, alias, address).attached
    # An endpoint that died could not record the end, and `raydc rm` heeds the history.
    if attached and switchover.find_endpoint(storage, model, alias) is not None:
        version = rollout.end(storage, model, alias, kind, why=why, after=after).version
        report(f"{model}: the {kind} of {alias!r}, version {version}, has ended")
        return
    from raydc.tracking.alias_history import Move, running_beside

    registry = Registry(storage, after)
    old = running_beside(registry.history(model)).get((alias, kind))
    if old is None:
        raise ServeError(
            f"{model} {alias!r} has no {kind}",
            f"raydc {kind} SPEC --version N starts one.",
        )
    # As an endpoint would have recorded it.
    move = Move(f"{kind} ended", alias, old, None, user(), why, round(time.time(), 3))
    registry.note(model, move)
    report(
        f"{model}: no endpoint serves {alias!r} here; its {kind}, version {old}, "
        "is recorded as ended"
    )


def _show(seen: CanaryReport) -> None:
    """Prints a line of counts for each version that gets requests or copies."""
    canary, shadow = seen.traffic.canary, seen.traffic.shadow
    for version, tally in seen.tallies.items():
        is_canary = canary is not None and canary.version == version
        # The line of a shadow counts rows that differ, which is what it runs for.
        if shadow and shadow.version == version and not is_canary:
            continue
        role = f"canary ({canary.fraction:.3g})" if canary and is_canary else "stable"
        p95_s = tally.percentile_s(0.95)
        latency = "" if p95_s is None else f", p95 {p95_s * 1000:.1f} ms"
        report(
            f"version {version}  {role}: {tally.num_requests} requests, "
            f"{tally.num_errors} failed{latency}"
        )
    if shadow:
        # No replica has compared an answer yet if there are no counts.
        counts = {"num_copied": 0, "num_failed": 0, "num_left_out": 0}
        counts |= {"num_different": 0, "num_rows": 0, **(seen.shadow or {})}
        report(
            f"version {shadow.version}  shadow ({shadow.fraction:.3g}): "
            f"{counts['num_copied']} copies, {counts['num_failed']} failed, "
            f"{counts['num_left_out']} left out; "
            f"{counts['num_different']} of {counts['num_rows']} rows differ"
        )
