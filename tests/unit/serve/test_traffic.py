"""Which version answers a request, and when: shares, changes at an instant, canary rules, shadows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_models
from in_process import Store, body, post, tensors

from raydc.errors import CheckpointError, DataError
from raydc.serve.control.rollout import decide
from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service
from raydc.serve.replica.shadow import ShadowRunner
from raydc.serve.settings import Settings, Traffic, TrafficShare
from raydc.serve.tally import BOUNDS_S, Tally, sum_tallies
from raydc.spec.sections import CanaryRule

KEYS = [f"user-{number}" for number in range(4000)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Versions 1 and 2 are good, the golden rows of 3 do not match."""
    return Store(tmp_path_factory.mktemp("tables"), small_models.table_features())


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


# Shares -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_a_share_is_the_fraction_of_keys(fraction: float) -> None:
    found = sum(TrafficShare(version=2, fraction=fraction).has(key) for key in KEYS) / len(KEYS)
    assert found == pytest.approx(fraction, abs=0.03)


def test_who_is_in_a_share_stays_when_it_grows() -> None:
    small = {key for key in KEYS if TrafficShare(version=2, fraction=0.1).has(key)}
    large = {key for key in KEYS if TrafficShare(version=2, fraction=0.4).has(key)}
    assert small < large
    other = {key for key in KEYS if TrafficShare(version=3, fraction=0.1).has(key)}
    assert small != other, "not always the same users try the next version"


def test_versions_are_those_of_all_sides_the_stable_one_first() -> None:
    traffic = Traffic(
        version=3,
        canary=TrafficShare(version=1, fraction=0.5),
        shadow=TrafficShare(version=1, fraction=1.0),
    )
    assert traffic.versions == (3, 1)


# Changes ----------------------------------------------------------------------------------------------------


def serving(tables: Store, clock: Clock, *steps: Settings) -> Service:
    async def main() -> Service:
        service = Service(clock)
        for settings in steps:
            await service.configure(settings)
        return service

    return asyncio.run(main())


def answering(service: Service, keys: list[str] = KEYS[:200]) -> set[str]:
    return {chosen.version for key in keys if (chosen := service.choose(key)) is not None}


def test_all_change_at_the_instant_that_was_named(tables: Store) -> None:
    clock = Clock()
    staged = tables.settings(1, staged=(2,))
    flip = tables.settings(2, before=Traffic(version=1), since_s=clock.now_s + 2)
    service = serving(tables, clock, tables.settings(1), staged)
    assert answering(service) == {"1"}
    assert service.state()["loaded"] == [1, 2]
    service = serving(tables, clock, tables.settings(1), staged, flip)
    clock.now_s += 1.999
    assert answering(service) == {"1"}
    clock.now_s += 0.001
    assert answering(service) == {"2"}
    assert service.current is not None
    assert service.current.version == "2"


def test_a_replica_that_starts_in_between_answers_as_the_others(tables: Store) -> None:
    clock = Clock()
    flip = tables.settings(2, before=Traffic(version=1), since_s=clock.now_s + 2)
    service = serving(tables, clock, flip)
    assert answering(service) == {"1"}
    clock.now_s += 3
    assert answering(service) == {"2"}
    late = serving(tables, clock, flip)
    assert late.state()["loaded"] == [2], "the version before is over and not loaded again"


def test_the_version_before_is_let_go_after_the_change(tables: Store) -> None:
    clock = Clock()

    async def main() -> None:
        service = Service(clock, unload_delay_s=0.0)
        await service.configure(tables.settings(1))
        await service.configure(
            tables.settings(2, before=Traffic(version=1), since_s=clock.now_s + 0.01)
        )
        assert service.state()["loaded"] == [1, 2]
        clock.now_s += 1
        while service.state()["loaded"] != [2]:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_staged_version_that_fails_changes_nothing_else(tables: Store) -> None:
    service = serving(tables, Clock(), tables.settings(1), tables.settings(1, staged=(3,)))
    assert answering(service) == {"1"}
    assert "golden rows[0]: output 'no'" in service.state()["refused"][3]
    assert service.state()["loaded"] == [1]


def test_a_canary_that_fails_leaves_its_requests_to_the_stable_version(tables: Store) -> None:
    broken = tables.settings(
        1, traffic=Traffic(version=1, canary=TrafficShare(version=3, fraction=0.5))
    )
    service = serving(tables, Clock(), broken)
    assert answering(service) == {"1"}
    assert list(service.state()["refused"]) == [3]


@pytest.mark.parametrize("fault", [RuntimeError("out of memory"), OSError("the share is away")])
def test_whatever_a_new_version_raises_the_old_one_answers(
    tables: Store, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fails(bundle: Any, max_batch_size: int) -> None:
        raise fault

    async def main() -> None:
        service = Service(Clock())
        await service.configure(tables.settings(1))
        monkeypatch.setattr("raydc.serve.replica.batch_size.measure", fails)
        await service.configure(tables.settings(1, staged=(2,)))
        assert answering(service) == {"1"}
        assert str(fault) in service.state()["refused"][2]

    asyncio.run(main())


def test_a_replica_that_starts_before_a_change_to_a_version_that_fails_is_an_error(
    tables: Store,
) -> None:
    clock = Clock()
    with pytest.raises(CheckpointError, match="golden rows"):
        serving(
            tables, clock, tables.settings(3, before=Traffic(version=1), since_s=clock.now_s + 2)
        )


def test_a_first_stable_version_that_fails_is_an_error(tables: Store) -> None:
    with pytest.raises(CheckpointError, match="golden rows"):
        serving(tables, Clock(), tables.settings(3))


def test_a_canary_answers_its_share_and_the_same_keys_each_time(tables: Store) -> None:
    canary = TrafficShare(version=2, fraction=0.25)
    service = serving(
        tables, Clock(), tables.settings(1, traffic=Traffic(version=1, canary=canary))
    )
    chosen = {key: service.choose(key) for key in KEYS}
    assert {one.version for one in chosen.values() if one} == {"1", "2"}
    assert {key for key, one in chosen.items() if one and one.version == "2"} == {
        k for k in KEYS if canary.has(k)
    }


def test_a_version_is_found_by_its_number_while_it_runs(tables: Store) -> None:
    traffic = Traffic(version=1, shadow=TrafficShare(version=2, fraction=1.0))
    service = serving(tables, Clock(), tables.settings(1, traffic=traffic))
    found = service.find("2")
    assert found is not None
    assert found.version == "2"
    for absent in ("3", "x", "-1", "9" * 400, "²", ""):
        assert service.find(absent) is None


def test_requests_of_a_key_stay_and_a_path_names_its_version(tables: Store) -> None:
    canary = TrafficShare(version=2, fraction=0.5)
    rows = small_models.table_rows(1)

    async def main() -> None:
        service = Service(Clock())
        await service.configure(tables.settings(1, traffic=Traffic(version=1, canary=canary)))
        routes = Routes(service, "0.0")
        inside = next(key for key in KEYS if canary.has(key))
        outside = next(key for key in KEYS if not canary.has(key))
        for key, version in ((inside, "2"), (outside, "1")):
            for path in ("/predict", "/v2/models/small/infer"):
                value = rows if path == "/predict" else tensors(rows)
                response = await routes.respond(post(path, value, **{"x-raydc-key": key}))
                assert response.headers["x-raydc-model-version"] == version
                assert body(response).get("version", body(response).get("model_version")) == version
        named = await routes.respond(
            post("/v2/models/small/versions/2/infer", tensors(rows), **{"x-raydc-key": outside})
        )
        assert (body(named)["model_version"], named.headers["x-raydc-model-version"]) == ("2", "2")
        elsewhere = await routes.respond(post("/a/b/c/versions/2", [], **{"x-raydc-key": outside}))
        assert (elsewhere.status_code, elsewhere.headers["x-raydc-model-version"]) == (404, "1")
        assert {v: tally["num_answered"] for v, tally in service.state()["tallies"].items()} == {
            1: 2,
            2: 3,
        }

    asyncio.run(main())


# How they do ------------------------------------------------------------------------------------------------


def tallied(
    answered: int, errors: int = 0, seconds: float = 0.01, refused: int = 0, error: int = 500
) -> Tally:
    tally = Tally()
    for status, count in ((200, answered), (error, errors), (422, refused), (429, 7)):
        for _ in range(count):
            tally.add(status, seconds)
    return tally


RULE = CanaryRule(min_requests=100, max_error_fraction=0.02, max_latency_ratio=2.0)


@pytest.mark.parametrize(
    ("canary", "kind", "reason"),
    [
        (tallied(99), "wait", "99 of 100"),
        (tallied(100), "promote", "100 requests"),
        (tallied(100, 2), "promote", "2 failed"),
        (tallied(7, 3), "drop", "3 of 10 requests failed"),
        (tallied(979, 21), "drop", "21 of 1000"),
        (tallied(0, 3, error=408), "drop", "3 of 3"),
        (tallied(100, seconds=0.05), "drop", "p95"),
        (tallied(0), "wait", "0 of 100"),
        (tallied(0, refused=100), "drop", "refused 100.0%"),
        (tallied(100, refused=8), "drop", "the stable version 3.8%"),
        (tallied(99, refused=5), "wait", "99 of 100 requests answered"),
    ],
)
def test_the_rule(canary: Tally, kind: str, reason: str) -> None:
    decision = decide(tallied(500, refused=20), canary, RULE)
    assert (decision.kind, reason in decision.reason) == (kind, True), decision


def test_a_canary_is_not_promoted_beside_a_stable_version_that_nobody_asks() -> None:
    assert decide(Tally(), tallied(500), RULE).kind == "wait"


def test_tallies_add_up_and_give_percentiles() -> None:
    both = sum_tallies(
        [tallied(90, seconds=0.001).to_dict(), tallied(9, 1, 0.1, refused=2).to_dict()]
    )
    assert (both.num_answered, both.num_errors, both.num_refused, both.num_requests) == (
        99,
        1,
        2,
        102,
    )
    half, most = both.percentile_s(0.5), both.percentile_s(0.95)
    assert half is not None
    assert most is not None
    assert 0.001 <= half <= 0.001 * 2**0.5
    assert 0.1 <= most <= 0.1 * 2**0.5
    assert Tally().percentile_s(0.5) is None
    slow = Tally()
    slow.add(200, 2 * BOUNDS_S[-1])
    assert slow.percentile_s(0.5) == float("inf")


# Shadows ----------------------------------------------------------------------------------------------------


YES, NO = {"label": "yes"}, {"label": "no"}


def copies(given: list[dict[str, Any]], found: Callable[[], Any], times: int = 1) -> dict[str, Any]:
    runner = ShadowRunner()

    async def main() -> None:
        for _ in range(times):
            runner.submit(2, lambda: given, found)
        await runner.wait()

    asyncio.run(asyncio.wait_for(main(), 30))
    counted = runner.counts()
    assert counted is not None
    return counted


def test_a_shadow_is_compared_row_by_row() -> None:
    counted = copies([YES, YES], lambda: [YES, NO])
    assert (counted["num_copied"], counted["num_rows"], counted["num_different"]) == (1, 2, 1)
    assert copies([YES], lambda: [{"value": 1.0}])["num_different"] == 1
    assert copies([{"value": 1.0}], lambda: [{"value": 1.00001}])["num_different"] == 0


@pytest.mark.parametrize(
    "fault", [DataError("no such column"), ValueError("broken"), MemoryError(), None]
)
def test_a_shadow_that_fails_is_counted_and_nothing_else(fault: Exception | None) -> None:
    def found() -> Any:
        if fault is not None:
            raise fault
        return [YES, NO]  # One row too many.

    counted = copies([YES], found)
    assert (counted["num_copied"], counted["num_failed"], counted["num_rows"]) == (1, 1, 0)


def test_a_slow_shadow_does_not_pile_up() -> None:
    counted = copies([YES], lambda: [YES], times=50)
    assert counted["num_copied"] + counted["num_left_out"] == 50
    assert counted["num_left_out"] >= 46, "all were handed over in one round of the loop"


def test_a_request_is_mirrored_to_the_shadow_and_its_answer_is_not(
    tables: Store, tmp_path: Path
) -> None:
    rows = small_models.table_rows(20)

    async def main() -> dict[str, Any]:
        service = Service(Clock())
        await service.configure(
            tables.settings(
                1, traffic=Traffic(version=1, shadow=TrafficShare(version=2, fraction=1.0))
            )
        )
        stable = service.choose("somebody")
        assert stable is not None

        def inputs(one: Any) -> Any:
            features = one.bundle.features
            return features.apply(features.from_json_rows(rows))

        outputs_BK = await service.compute(stable, inputs(stable))
        service.mirror(stable, "somebody", inputs, outputs_BK)
        await service.shadow_runner.wait()
        counted: dict[str, Any] = service.state()["shadow"]
        return counted

    counted = asyncio.run(asyncio.wait_for(main(), 30))
    one, two = (tables.bundle(version).predict_rows(rows) for version in (1, 2))
    different = sum(a["label"] != b["label"] for a, b in zip(one, two, strict=True))
    assert different > 0
    assert (counted["num_copied"], counted["num_rows"], counted["num_different"]) == (
        1,
        20,
        different,
    )
