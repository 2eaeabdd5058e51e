"""Versions of a service: switched at an instant, refused, chosen by key and path, mirrored."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import small_models
from in_process import Store, body, post, tensors
from traffic_samples import KEYS

from raydc.errors import CheckpointError
from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service
from raydc.serve.settings import Settings, Traffic, TrafficShare


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Versions 1 and 2 are good, the golden rows of 3 do not match."""
    return Store(tmp_path_factory.mktemp("tables"), small_models.table_features())


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def serving(clock: Clock, *steps: Settings) -> Service:
    async def main() -> Service:
        service = Service(clock)
        for settings in steps:
            await service.configure(settings)
        return service

    return asyncio.run(main())


def answering(service: Service, keys: list[str] = KEYS[:200]) -> set[str]:
    return {chosen.version for key in keys if (chosen := service.choose(key)) is not None}


def test_switch_happens_at_the_declared_instant(tables: Store) -> None:
    clock = Clock()
    staged = tables.settings(1, staged=(2,))
    flip = tables.settings(2, before=Traffic(version=1), since_s=clock.now_s + 2)
    service = serving(clock, tables.settings(1), staged)
    assert answering(service) == {"1"}
    assert service.state()["loaded"] == [1, 2]
    service = serving(clock, tables.settings(1), staged, flip)
    clock.now_s += 1.999
    assert answering(service) == {"1"}
    clock.now_s += 0.001
    assert answering(service) == {"2"}
    assert service.current is not None
    assert service.current.version == "2"


def test_replica_started_during_a_switch_answers_like_the_others(tables: Store) -> None:
    clock = Clock()
    flip = tables.settings(2, before=Traffic(version=1), since_s=clock.now_s + 2)
    service = serving(clock, flip)
    assert answering(service) == {"1"}
    clock.now_s += 3
    assert answering(service) == {"2"}
    late = serving(clock, flip)
    assert late.state()["loaded"] == [2], "the version before is over and not loaded again"


def test_old_version_is_unloaded_after_a_switch(tables: Store) -> None:
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


def test_failed_staged_version_changes_nothing_else(tables: Store) -> None:
    service = serving(Clock(), tables.settings(1), tables.settings(1, staged=(3,)))
    assert answering(service) == {"1"}
    assert "golden rows[0]: output 'no'" in service.state()["refused"][3]
    assert service.state()["loaded"] == [1]


def test_failed_canary_leaves_its_requests_to_the_stable_version(tables: Store) -> None:
    broken = tables.settings(
        1, traffic=Traffic(version=1, canary=TrafficShare(version=3, fraction=0.5))
    )
    service = serving(Clock(), broken)
    assert answering(service) == {"1"}
    assert list(service.state()["refused"]) == [3]


@pytest.mark.parametrize("fault", [RuntimeError("out of memory"), OSError("the share is away")])
def test_old_version_answers_whatever_a_new_one_raises(
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


def test_start_before_a_switch_to_a_bad_version_raises(
    tables: Store,
) -> None:
    clock = Clock()
    with pytest.raises(CheckpointError, match="golden rows"):
        serving(clock, tables.settings(3, before=Traffic(version=1), since_s=clock.now_s + 2))


def test_bad_first_stable_version_raises(tables: Store) -> None:
    with pytest.raises(CheckpointError, match="golden rows"):
        serving(Clock(), tables.settings(3))


def test_canary_answers_exactly_the_keys_of_its_share(tables: Store) -> None:
    canary = TrafficShare(version=2, fraction=0.25)
    service = serving(Clock(), tables.settings(1, traffic=Traffic(version=1, canary=canary)))
    chosen = {key: service.choose(key) for key in KEYS}
    assert {one.version for one in chosen.values() if one} == {"1", "2"}
    assert {key for key, one in chosen.items() if one and one.version == "2"} == {
        k for k in KEYS if canary.has(k)
    }


def test_find_returns_only_running_versions(tables: Store) -> None:
    traffic = Traffic(version=1, shadow=TrafficShare(version=2, fraction=1.0))
    service = serving(Clock(), tables.settings(1, traffic=traffic))
    found = service.find("2")
    assert found is not None
    assert found.version == "2"
    for absent in ("3", "x", "-1", "9" * 400, "²", ""):
        assert service.find(absent) is None


def test_key_and_path_decide_the_version(tables: Store) -> None:
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


def test_mirror_compares_every_row_of_a_request(tables: Store, tmp_path: Path) -> None:
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
