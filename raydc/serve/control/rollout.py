"""What runs beside the version that an alias stands for: a canary, which answers a fraction of the requests, and a
shadow, which gets copies and answers nobody. And the rule by which a canary is promoted or dropped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

from raydc.errors import Say, ServeError
from raydc.registry import Registry, user
from raydc.serve.control import switchover
from raydc.serve.control.readiness import fetch_replica_states
from raydc.serve.settings import Traffic, TrafficShare
from raydc.serve.tally import Tally, sum_tallies
from raydc.spec.sections import CanaryRule
from raydc.storage import Storage
from raydc.tracking.alias_history import Move

Kind = Literal["canary", "shadow"]
_POLL_INTERVAL_S = 1.0


def start(
    storage: Storage,
    model: str,
    alias: str,
    kind: Kind,
    version: int,
    fraction: float,
    *,
    who: str = "",
    why: str = "",
    ready_timeout_s: float = 180.0,
) -> None:
    """Begins a canary or a shadow beside the version of an alias, or changes its fraction.

    Args:
        storage: Where the registry is.
        model: The model.
        alias: An alias that an endpoint of the connected Ray serves.
        kind: What it is to be.
        version: The version that runs beside.
        fraction: Of the requests, above 0 and at most 1.
        who: For the history.
        why: The same.
        ready_timeout_s: How long the endpoint may take to load it.

    Raises:
        RegistryError: There is no such version.
        ServeError: No endpoint serves the alias, it stands for that version itself, or the version does not load;
            nothing has changed.
    """
    registry = Registry(storage)
    registry.folder(model, version)

    def change(now: Traffic) -> Traffic:
        if now.version == version:
            raise ServeError(f"version {version} of {model} is what {alias!r} stands for already")
        return now.model_copy(update={kind: TrafficShare(version=version, fraction=fraction)})

    _change(registry, model, alias, change, ready_timeout_s, who, why)


def end(
    storage: Storage,
    model: str,
    alias: str,
    kind: Kind,
    *,
    who: str = "",
    why: str = "",
    ready_timeout_s: float = 180.0,
) -> TrafficShare:
    """Ends a canary or a shadow; arguments as of `start`.

    Returns:
        What ran.

    Raises:
        ServeError: No endpoint serves the alias, or nothing of that kind runs beside it.
    """

    def change(now: Traffic) -> Traffic:
        if getattr(now, kind) is None:
            raise ServeError(
                f"no {kind} runs beside {model} {alias!r}",
                f"raydc {kind} SPEC --version N starts one.",
            )
        return now.model_copy(update={kind: None})

    before = _change(Registry(storage), model, alias, change, ready_timeout_s, who, why)
    ended: TrafficShare = getattr(before, kind)
    return ended


def _change(
    registry: Registry,
    model: str,
    alias: str,
    change: switchover.Change,
    ready_timeout_s: float,
    who: str,
    why: str,
) -> Traffic:
    before = switchover.traffic(registry.storage, model, alias, change, ready_timeout_s)
    if before is None:
        raise ServeError(
            f"no endpoint serves {model} {alias!r} on this Ray",
            "Start it first: raydc serve SPEC; or say --address.",
        )
    record_changes(registry, model, alias, before, change(before), who, why)
    return before


def record_changes(
    registry: Registry, model: str, alias: str, before: Traffic, after: Traffic, who: str, why: str
) -> None:
    """Writes into the history which canary and shadow have begun and ended between two traffics."""
    for kind in ("canary", "shadow"):
        old, new = getattr(before, kind), getattr(after, kind)
        if old == new:
            continue
        versions = (old.version if old else None, new.version if new else None)
        told = kind if new else f"{kind} ended"
        fraction = new.fraction if new else None
        registry.note(
            model, Move(told, alias, *versions, who or user(), why, round(time.time(), 3), fraction)
        )


# How they do ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CanaryReport:
    """What the replicas counted since the traffic changed last: requests by version, and the shadow's comparison."""

    traffic: Traffic
    tallies: dict[int, Tally]
    shadow: dict[str, Any] | None


def observe(storage: Storage, model: str, alias: str) -> CanaryReport:
    """Asks all replicas.

    Raises:
        ServeError: No endpoint serves the alias.
    """
    found = switchover.find(storage, model, alias)
    if found is None:
        raise ServeError(
            f"no endpoint serves {model} {alias!r} on this Ray", "Start it first: raydc serve SPEC"
        )
    states = fetch_replica_states(model)
    traffic = Traffic.model_validate(found["deployments"][0]["user_config"]["traffic"])
    tallies = {
        version: sum_tallies(
            state["tallies"][version] for state in states if version in state["tallies"]
        )
        for version in traffic.versions
    }
    copies = [state["shadow"] for state in states if state["shadow"]]
    shadow = (
        {name: sum(one[name] for one in copies) for name in copies[0] if name != "version"}
        if copies
        else None
    )
    return CanaryReport(traffic, tallies, shadow)


@dataclass(frozen=True)
class CanaryDecision:
    """What a rule says of a canary, and why."""

    kind: Literal["promote", "drop", "wait"]
    reason: str


def decide(stable: Tally, canary: Tally, rule: CanaryRule) -> CanaryDecision:
    """Applies a rule to what has been counted. Pure.

    A canary is dropped as soon as it has more errors than `min_requests` would allow. Latencies, and requests that it
    refuses but the stable version would not, are compared when it has had `min_requests`. It must answer as many.
    """
    allowed = rule.max_error_fraction * max(rule.min_requests, canary.num_requests)
    if canary.num_errors > allowed:
        return CanaryDecision(
            "drop", f"{canary.num_errors} of {canary.num_requests} requests failed"
        )
    if canary.num_requests < rule.min_requests:
        return CanaryDecision("wait", f"{canary.num_requests} of {rule.min_requests} requests")
    if canary.refused_fraction > stable.refused_fraction + rule.max_error_fraction:
        refused = f"{canary.refused_fraction:.1%} of its requests, the stable version {stable.refused_fraction:.1%}"
        return CanaryDecision("drop", f"it refused {refused}")
    ours, theirs = canary.percentile_s(0.95), stable.percentile_s(0.95)
    if ours is not None and theirs is not None and ours > rule.max_latency_ratio * theirs:
        return CanaryDecision(
            "drop",
            f"p95 is {ours * 1000:.1f} ms, that of the stable version {theirs * 1000:.1f} ms",
        )
    if canary.num_answered < rule.min_requests or theirs is None:
        return CanaryDecision(
            "wait", f"{canary.num_answered} of {rule.min_requests} requests answered"
        )
    return CanaryDecision("promote", f"{canary.num_requests} requests, {canary.num_errors} failed")


def follow(
    storage: Storage,
    model: str,
    alias: str,
    version: int,
    rule: CanaryRule,
    report: Say,
) -> CanaryDecision:
    """Watches a version as canary until the rule promotes or drops it. The caller acts on the decision.

    Raises:
        ServeError: No endpoint, or that version is the canary no more.
    """
    deadline = time.monotonic() + rule.timeout_s
    said = ""
    while time.monotonic() < deadline:
        seen = observe(storage, model, alias)
        if seen.traffic.canary is None or seen.traffic.canary.version != version:
            raise ServeError(
                f"version {version} of {model} is no canary of {alias!r} any more: somebody changed it"
            )
        decision = decide(seen.tallies[seen.traffic.version], seen.tallies[version], rule)
        if decision.kind != "wait":
            return decision
        if decision.reason != said:
            said = decision.reason
            report(said)
        time.sleep(_POLL_INTERVAL_S)
    return CanaryDecision("drop", f"timeout_s = {rule.timeout_s:g} is over: {said}")
