"""Commands for what runs beside the version that answers: canary, shadow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from raydc.cli.app import ADDRESS, ALIAS, SET, SPEC, WHY, load, report
from raydc.errors import ServeError, UsageError

if TYPE_CHECKING:
    from raydc.serve.control.rollout import CanaryReport
    from raydc.spec.sections import Spec
    from raydc.storage import Storage

_VERSION = click.option("--version", type=int, help="Version to run beside the one that answers.")
_DROP = click.option("--drop", is_flag=True, help="End it.")


@click.command()
@SPEC
@SET
@ADDRESS
@_VERSION
@click.option(
    "--fraction",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0.0, 1.0, min_open=True),
    help="Of the requests that it answers.",
)
@click.option(
    "--follow", is_flag=True, help="Wait, and promote or drop it by the rule of serve.canary."
)
@_DROP
@ALIAS
@WHY
def canary(
    spec: str, overrides: tuple[str, ...], address: str | None, version: int | None, fraction: float, follow: bool,
    drop: bool, alias: str | None, why: str,
) -> None:  # fmt: skip
    """Let a version answer a fraction of the requests; without --version, say how it does."""
    from raydc.serve.control import rollout

    given, storage, alias = _open(spec, overrides, address, alias, drop, version)
    if drop:
        ended = rollout.end(storage, given.name, alias, "canary", why=why)
        report(f"{given.name}: the canary of {alias!r}, version {ended.version}, has ended")
        return
    if version is not None:
        rollout.start(storage, given.name, alias, "canary", version, fraction, why=why)
        report(
            f"{given.name}: version {version} answers {fraction:.3g} of the requests to {alias!r}"
        )
    elif not follow:
        _show(rollout.observe(storage, given.name, alias))
    if follow:
        _follow(given, storage, alias, why)


def _follow(given: Spec, storage: Storage, alias: str, why: str) -> None:
    from raydc import serve
    from raydc.serve.control import rollout
    from raydc.spec.sections import Serve

    rule = (given.serve or Serve()).canary
    watched = rollout.observe(storage, given.name, alias).traffic.canary
    if watched is None:
        raise ServeError(
            f"no canary runs beside {given.name} {alias!r}",
            "raydc canary SPEC --version N starts one.",
        )
    decision = rollout.follow(
        storage, given.name, alias, watched.version, rule, lambda line: report(f"canary    {line}")
    )
    reason = f"{why}; {decision.reason}" if why else decision.reason
    if decision.kind == "promote":
        serve.promote(storage, given.name, alias, watched.version, why=reason)
        report(f"{given.name}: alias {alias!r} is now version {watched.version}: {decision.reason}")
        return
    rollout.end(storage, given.name, alias, "canary", why=reason)
    raise ServeError(
        f"canary version {watched.version} of {given.name} was dropped: {decision.reason}"
    )


@click.command()
@SPEC
@SET
@ADDRESS
@_VERSION
@click.option(
    "--fraction",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.0, 1.0, min_open=True),
    help="Of the requests that are copied.",
)
@_DROP
@ALIAS
@WHY
def shadow(
    spec: str, overrides: tuple[str, ...], address: str | None, version: int | None, fraction: float, drop: bool,
    alias: str | None, why: str,
) -> None:  # fmt: skip
    """Give a version copies of the requests; it answers nobody. Without --version, say how far it agrees."""
    from raydc.serve.control import rollout

    given, storage, alias = _open(spec, overrides, address, alias, drop, version)
    if drop:
        ended = rollout.end(storage, given.name, alias, "shadow", why=why)
        report(f"{given.name}: the shadow of {alias!r}, version {ended.version}, has ended")
    elif version is not None:
        rollout.start(storage, given.name, alias, "shadow", version, fraction, why=why)
        report(
            f"{given.name}: version {version} gets copies of {fraction:.3g} of the requests to {alias!r}"
        )
    else:
        _show(rollout.observe(storage, given.name, alias))


def _open(
    path: str,
    overrides: tuple[str, ...],
    address: str | None,
    alias: str | None,
    drop: bool,
    version: int | None,
) -> tuple[Spec, Storage, str]:
    from raydc import engine, spec
    from raydc.spec.sections import Serve
    from raydc.storage import Storage

    if drop and version is not None:
        raise UsageError("--drop and --version exclude each other", "Give the one or the other.")
    given = spec.resolve(load(path, overrides))
    if not engine.attach(address):
        raise ServeError(
            "no Ray runs here, so no endpoint does", "Give --address, or start it: raydc serve SPEC"
        )
    return given, Storage(given.storage), alias or (given.serve or Serve()).alias


def _show(seen: CanaryReport) -> None:
    for version, tally in seen.tallies.items():
        canary, copied = seen.traffic.canary, seen.traffic.shadow
        if copied and copied.version == version and (canary is None or canary.version != version):
            continue
        role = (
            f"canary ({canary.fraction:.3g})" if canary and canary.version == version else "stable"
        )
        p95_s = tally.percentile_s(0.95)
        latency = "" if p95_s is None else f", p95 {p95_s * 1000:.1f} ms"
        report(
            f"version {version}  {role}: {tally.num_requests} requests, {tally.num_errors} failed{latency}"
        )
    if seen.traffic.shadow:
        told = seen.shadow or {}
        report(
            f"version {seen.traffic.shadow.version}  shadow ({seen.traffic.shadow.fraction:.3g}): "
            f"{told.get('num_copied', 0)} copies, {told.get('num_failed', 0)} failed, "
            f"{told.get('num_left_out', 0)} left out; {told.get('num_different', 0)} of {told.get('num_rows', 0)} "
            "rows differ"
        )
