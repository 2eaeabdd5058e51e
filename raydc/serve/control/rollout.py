"""Canaries and shadows of an endpoint, from the driver: start, end, observe, decide.

A canary answers a fraction of the requests. A shadow gets copies of requests, and its answers reach
no client. `decide` is the rule by which a canary is promoted or dropped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

from raydc.errors import Say, ServeError
from raydc.registry import Registry
from raydc.serve.control import switchover
from raydc.serve.control.exclusive_change import hold_change
from raydc.serve.control.readiness import fetch_replica_states
from raydc.serve.control.traffic_history import record_changes
from raydc.serve.settings import Traffic, TrafficShare
from raydc.serve.tally import Tally, sum_tallies
from raydc.spec.sections import CanaryRule
from raydc.storage import Storage

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
    after: int | None = None,
    ready_timeout_s: float = 180.0,
) -> None:
    """Starts a canary or a shadow of an alias, or changes its fraction.

    Args:
        storage: Storage that holds the registry.
        model: Name of the model in the registry.
        alias: An alias that an endpoint of the connected Ray serves.
        kind: `canary` or `shadow`.
        version: Registered version; it must not be the one that the alias has.
        fraction: Its share of the requests, above 0 and at most 1.
        who: Author of the change, for the history.
        why: Reason of the change, for the history.
        after: `Registry.history_number` on which the user has decided; None takes the one of now.
        ready_timeout_s: Time limit until all replicas have loaded it.

    Raises:
        RegistryError: There is no such version.
        ServeError: No endpoint serves the alias, the alias has that version itself, or the version
            does not load. Nothing has changed.
        OvertakenError: Another command has changed the model meanwhile, and that stands.
    """
    # Raises if there is no such version.
    Registry(storage).folder(model, version)

    def change(now: Traffic) -> Traffic:
        if now.version == version:
            raise ServeError(f"version {version} of {model} is the version of {alias!r} already")
        return now.model_copy(update={kind: TrafficShare(version=version, fraction=fraction)})

    _change(storage, model, alias, change, ready_timeout_s, who, why, after)


def end(
    storage: Storage,
    model: str,
    alias: str,
    kind: Kind,
    *,
    who: str = "",
    why: str = "",
    after: int | None = None,
    ready_timeout_s: float = 180.0,
) -> TrafficShare:
    """Ends a canary or a shadow.

    Args:
        storage: Storage that holds the registry.
        model: Name of the model in the registry.
        alias: An alias that an endpoint of the connected Ray serves.
        kind: `canary` or `shadow`.
        who: Author of the change, for the history.
        why: Reason of the change, for the history.
        after: `Registry.history_number` on which the user has decided; None takes the one of now.
        ready_timeout_s: Time limit until all replicas have changed.

    Returns:
        The share that it had.

    Raises:
        ServeError: No endpoint serves the alias, or it has none of that kind.
        OvertakenError: Another command has changed the model meanwhile, and that stands.
    """

    def change(now: Traffic) -> Traffic:
        if getattr(now, kind) is None:
            raise ServeError(
                f"{model} {alias!r} has no {kind}",
                f"raydc {kind} SPEC --version N starts one.",
            )
        return now.model_copy(update={kind: None})

    before = _change(storage, model, alias, change, ready_timeout_s, who, why, after)
    ended: TrafficShare = getattr(before, kind)
    return ended


def _change(
    storage: Storage,
    model: str,
    alias: str,
    change: switchover.Change,
    ready_timeout_s: float,
    who: str,
    why: str,
    after: int | None,
) -> Traffic:
    number = Registry(storage).history_number(model) if after is None else after
    with hold_change(storage, model, number) as registry:

        def commit(before: Traffic, now: Traffic) -> None:
            # The same fraction again makes no entry, and so would not notice another command.
            registry.require_unchanged(model)
            record_changes(registry, model, alias, before, now, who, why)

        found = switchover.change_traffic(storage, model, alias, change, ready_timeout_s, commit)
    if found is None:
        raise ServeError(
            f"no endpoint serves {model} {alias!r} on this Ray",
            "Start it first: raydc serve SPEC; or give --address.",
        )
    return found[1]


@dataclass(frozen=True)
class CanaryReport:
    """Counts of all replicas since the traffic last changed.

    Attributes:
        traffic: Traffic that the counts belong to.
        tallies: Requests by version.
        shadow: Summed comparison with the shadow; None without one.
    """

    traffic: Traffic
    tallies: dict[int, Tally]
    shadow: dict[str, Any] | None


def observe(storage: Storage, model: str, alias: str) -> CanaryReport:
    """Collects the counts of all replicas.

    Args:
        storage: Storage that holds the registry.
        model: Name of the model in the registry.
        alias: An alias that an endpoint of the connected Ray serves.

    Raises:
        ServeError: No endpoint serves the alias.
    """
    found = switchover.find_endpoint(storage, model, alias)
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
    # Replicas that have had no request to copy have no comparison.
    copies = [state["shadow"] for state in states if state["shadow"]]
    shadow = (
        {name: sum(one[name] for one in copies) for name in copies[0] if name != "version"}
        if copies
        else None
    )
    return CanaryReport(traffic, tallies, shadow)


@dataclass(frozen=True)
class CanaryDecision:
    """The decision about a canary.

    Attributes:
        kind: `promote`, `drop` or `wait`.
        reason: The figures that led to it.
    """

    kind: Literal["promote", "drop", "wait"]
    reason: str


def decide(stable: Tally, canary: Tally, rule: CanaryRule) -> CanaryDecision:
    """Decides about a canary from the counts of both versions. Pure.

    Too many errors drop it at once. Latencies and refusals are compared after `min_requests`
    requests. To be promoted it must also have answered that many.

    Args:
        stable: Counts of requests to the stable version since the traffic changed.
        canary: Counts of requests to the canary.
        rule: Limits from `serve.canary` of the spec.
    """
    # The errors that `min_requests` requests may have are allowed from the start: otherwise one
    # failure among the first ten requests would be a tenth of them.
    allowed = rule.max_error_fraction * max(rule.min_requests, canary.num_requests)
    if canary.num_errors > allowed:
        return CanaryDecision(
            "drop", f"{canary.num_errors} of {canary.num_requests} requests failed"
        )
    if canary.num_requests < rule.min_requests:
        return CanaryDecision("wait", f"{canary.num_requests} of {rule.min_requests} requests")
    if canary.refused_fraction > stable.refused_fraction + rule.max_error_fraction:
        ours, theirs = f"{canary.refused_fraction:.1%}", f"{stable.refused_fraction:.1%}"
        return CanaryDecision(
            "drop", f"it refused {ours} of its requests, the stable version {theirs}"
        )
    p95_s, stable_p95_s = canary.percentile_s(0.95), stable.percentile_s(0.95)
    if (
        p95_s is not None
        and stable_p95_s is not None
        and p95_s > rule.max_latency_ratio * stable_p95_s
    ):
        return CanaryDecision(
            "drop",
            f"p95 is {1e3 * p95_s:.1f} ms, that of the stable version {1e3 * stable_p95_s:.1f} ms",
        )
    # Without an answer of the stable version there is nothing to compare with.
    if canary.num_answered < rule.min_requests or stable_p95_s is None:
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
    """Observes a canary until the rule promotes or drops it. The caller acts on the decision.

    Args:
        storage: Storage that holds the registry.
        model: Name of the model in the registry.
        alias: The alias whose canary it is.
        version: The canary when the caller began; another one ends the observation.
        rule: Limits of the spec, with a timeout after which the canary is dropped.
        report: Called with each new reason to wait.

    Raises:
        ServeError: No endpoint serves the alias, or another version is its canary now.
    """
    deadline = time.monotonic() + rule.timeout_s
    said = ""
    while time.monotonic() < deadline:
        seen = observe(storage, model, alias)
        if seen.traffic.canary is None or seen.traffic.canary.version != version:
            raise ServeError(
                f"version {version} of {model} is no longer the canary of {alias!r}: "
                "somebody changed it"
            )
        decision = decide(seen.tallies[seen.traffic.version], seen.tallies[version], rule)
        if decision.kind != "wait":
            return decision
        if decision.reason != said:
            said = decision.reason
            report(said)
        time.sleep(_POLL_INTERVAL_S)
    return CanaryDecision("drop", f"timeout_s = {rule.timeout_s:g} has passed: {said}")
