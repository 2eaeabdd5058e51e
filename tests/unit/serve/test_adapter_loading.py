"""Adapters that requests name: loaded once, whatever becomes of the requests and the settings."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from pretrained_models import LORA, NAME, PretrainedStore, write_pretrained_bundle

from raydc.errors import CheckpointError
from raydc.registry import Registry
from raydc.serve.http import named_version
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica import adapter_lookup, loaded_adapters
from raydc.serve.replica.adapter_lookup import Aside
from raydc.serve.replica.loaded_version import LoadedVersion, load_version
from raydc.serve.replica.service import Service
from raydc.serve.settings import Settings, Traffic, TrafficShare
from raydc.storage import Storage
from raydc.tokens import Token

# Its golden prompts do not come out.
SPOILED = 3
# Its layers have adapters of another rank.
OTHER = 4
READER = Token("", "", "reader", ("read",), 0.0, None, "")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PretrainedStore:
    folder = tmp_path_factory.mktemp("loading")
    made = PretrainedStore(folder, num_versions=2, lora=LORA)
    model: Any = made.spec.model
    lora = model.lora.model_copy(update={"rank": 3})
    other = made.spec.model_copy(update={"model": model.model_copy(update={"lora": lora})})
    write_pretrained_bundle(Storage(str(folder / "other")), other)
    assert made.registry.register(NAME, Storage(str(folder / "other")), {"run": NAME}) == OTHER
    return made


def settings_of(store: PretrainedStore, **fields: Any) -> Settings:
    return store.settings(1, num_adapters=2, **fields)


class Loads:
    """Loads of adapters, which wait until the test lets them go.

    Attributes:
        versions: Versions whose loads have begun.
        gate: Loads go on while it is set.
        errors: Raised by the next loads, one by one.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.versions: list[int] = []
        self.gate = threading.Event()
        self.errors: list[Exception] = []
        monkeypatch.setattr(loaded_adapters, "load_version", self._wait)

    def _wait(self, settings: Settings, version: int, *rest: Any) -> LoadedVersion:
        self.versions.append(version)
        assert self.gate.wait(60)
        if self.errors:
            raise self.errors.pop(0)
        return load_version(settings, version, *rest)


async def wait_for(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


async def ask(service: Service, name: str, aside: Aside = nullcontext) -> LoadedVersion:
    request: Any = SimpleNamespace(access=READER, answered_by=None)
    assert service.current is not None
    return await named_version.find_adapter(service, request, service.current, name, aside)


def test_a_request_that_is_given_up_does_not_end_the_load_for_others(
    store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        service, loads = Service(), Loads(monkeypatch)
        await service.configure(settings_of(store))
        monkeypatch.setattr(loaded_adapters, "_MOST_LOADING", 1)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ask(service, f"{NAME}:2"), 0.05)
        await wait_for(lambda: bool(loads.versions))
        # A load for each of many versions would pile up.
        for number, status in ((SPOILED, 429), (77, 404)):
            with pytest.raises(RequestError) as refused:
                await ask(service, f"{NAME}:{number}")
            assert refused.value.status == status
        loads.gate.set()
        assert (await ask(service, f"{NAME}:2")).number == 2
        assert loads.versions == [2]

    asyncio.run(run())


def test_a_load_waits_for_no_change_of_versions(store: PretrainedStore) -> None:
    async def run() -> None:
        service = Service()
        await service.configure(settings_of(store))
        # A change may take minutes.
        async with service._configuring, asyncio.timeout(60):
            assert (await ask(service, f"{NAME}:2")).number == 2

    asyncio.run(run())


def test_a_load_follows_a_change_that_ends_before_it(
    store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        service, loads = Service(), Loads(monkeypatch)
        await service.configure(settings_of(store))
        waiting = asyncio.create_task(ask(service, f"{NAME}:2"))
        await wait_for(lambda: loads.versions == [2])
        await service.configure(settings_of(store, max_tokens=7))
        loads.gate.set()
        found = await waiting
        assert (found.number, found.settings.max_tokens, loads.versions) == (2, 7, [2, 2])
        # And adapters that are loaded follow later ones.
        await service.configure(settings_of(store, max_tokens=5))
        again = await ask(service, f"{NAME}:2")
        assert (again.settings.max_tokens, again.engine) == (5, found.engine)

    asyncio.run(run())


def test_requests_that_wait_for_a_load_hold_no_place_of_others(
    store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        service, loads = Service(), Loads(monkeypatch)
        await service.configure(settings_of(store))
        monkeypatch.setattr(loaded_adapters, "_MOST_WAITING", 3)
        slots = [await service.admission.admit() for _ in range(3)]
        waiting = [asyncio.create_task(ask(service, f"{NAME}:2", slot.aside)) for slot in slots]
        await wait_for(lambda: bool(loads.versions))
        assert service.admission.num_inside == 0
        with pytest.raises(RequestError) as refused:
            await ask(service, f"{NAME}:2")
        assert refused.value.status == 429
        waiting.pop().cancel()
        await wait_for(lambda: service.admission.num_inside == 1)
        loads.gate.set()
        await asyncio.gather(*waiting)
        assert service.admission.num_inside == 3
        for slot in slots:
            slot.release()
        assert service.admission.num_inside == 0
        assert (await ask(service, f"{NAME}:2")).number == 2

    asyncio.run(run())


def test_a_version_that_was_refused_is_tried_again_a_minute_later(
    store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        service, loads, clock = Service(), Loads(monkeypatch), [100.0]
        service.adapters._now_s = lambda: clock[0]
        loads.gate.set()
        await service.configure(settings_of(store))
        loads.errors = [CheckpointError("adapter.safetensors: expected sha256 1, found sha256 2")]
        for clock[0] in (100.0, 159.0):
            with pytest.raises(RequestError, match=r"adapter\.safetensors: expected sha256"):
                await ask(service, f"{NAME}:2")
            assert loads.versions == [2]
        clock[0] = 160.0
        assert (await ask(service, f"{NAME}:2")).number == 2

    asyncio.run(run())


def test_what_cannot_be_loaded_waits_for_no_load_of_others(
    store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        service, loads = Service(), Loads(monkeypatch)
        await service.configure(settings_of(store))
        with pytest.raises(RequestError, match="no adapters of the base"):
            await ask(service, f"{NAME}:{OTHER}")
        waiting = asyncio.create_task(ask(service, f"{NAME}:2"))
        await wait_for(lambda: loads.versions == [2])
        async with asyncio.timeout(60):
            for name, message in ((f"{NAME}:77", "no model"), (f"{NAME}:{OTHER}", "the base")):
                with pytest.raises(RequestError, match=message) as refused:
                    await ask(service, name)
                assert refused.value.status == 404
            # So that many of them keep nobody out.
            await wait_for(lambda: list(service.adapters._loading) == [2])
        loads.gate.set()
        assert (await waiting).number == 2

    asyncio.run(run())


class Looks:
    """Looks into the registry, which wait until the test lets them go; `number` counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number, self.gate = 0, threading.Event()
        usual = Registry.versions

        def versions(registry: Registry, model: str) -> Any:
            self.number += 1
            assert self.gate.wait(60)
            return usual(registry, model)

        monkeypatch.setattr(Registry, "versions", versions)


def test_flood_of_unknown_numbers_takes_no_place_of_an_adapter(
    store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        service, loads = Service(), Loads(monkeypatch)
        await service.configure(settings_of(store))
        monkeypatch.setattr(loaded_adapters, "_MOST_LOADING", 1)
        monkeypatch.setattr(loaded_adapters, "_MOST_WAITING", 1)
        looks = Looks(monkeypatch)
        names = [f"{NAME}:{number}" for number in range(100, 300)]
        flood = [asyncio.create_task(ask(service, name)) for name in names]
        await wait_for(lambda: looks.number == 1)
        valid = asyncio.create_task(ask(service, f"{NAME}:2"))
        await asyncio.sleep(0)
        looks.gate.set()
        for one in await asyncio.gather(*flood, return_exceptions=True):
            assert isinstance(one, RequestError)
            assert one.status == 404
        loads.gate.set()
        assert (await valid).number == 2
        # One look for all of the flood, one for those who came during it, and a few of the load.
        assert looks.number < 20

    asyncio.run(run())


def test_adapter_that_is_known_waits_for_no_look_that_others_wait_for(
    store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        service, loads = Service(), Loads(monkeypatch)
        await service.configure(settings_of(store))
        loads.gate.set()
        assert (await ask(service, f"{NAME}:2")).number == 2
        # Others were used since.
        service.adapters._loaded.clear()
        monkeypatch.setattr(adapter_lookup, "_MOST_ASKING", 1)
        looks = Looks(monkeypatch)
        unknown = asyncio.create_task(ask(service, f"{NAME}:77"))
        await wait_for(lambda: looks.number == 1)
        with pytest.raises(RequestError) as refused:
            await ask(service, f"{NAME}:78")
        assert refused.value.status == 429
        known = asyncio.create_task(ask(service, f"{NAME}:2"))
        await wait_for(lambda: list(service.adapters._loading) == [2])
        looks.gate.set()
        assert (await known).number == 2
        with pytest.raises(RequestError):
            await unknown

    asyncio.run(run())


def test_version_that_is_registered_during_a_look_is_found_by_the_next(
    store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        service = Service()
        await service.configure(settings_of(store))
        found, gate = [[1], [1, 2]], threading.Event()
        begun: list[int] = []

        def versions(*_: object) -> list[int]:
            begun.append(0)
            # What a look sees is what there was when it began.
            seen = found[min(len(begun), len(found)) - 1]
            assert gate.wait(60)
            return seen

        monkeypatch.setattr(Registry, "versions", versions)
        early = asyncio.create_task(ask(service, f"{NAME}:2"))
        await wait_for(lambda: len(begun) == 1)
        late = asyncio.create_task(ask(service, f"{NAME}:2"))
        await asyncio.sleep(0)
        gate.set()
        assert (await late).number == 2
        with pytest.raises(RequestError, match="no model"):
            await early

    asyncio.run(run())


def test_a_version_without_one_of_its_files_is_refused(store: PretrainedStore) -> None:
    """Its storage answers: that the file is not there."""

    async def run() -> None:
        service, folder = Service(), store.registry.folder(NAME, 2)
        await service.configure(settings_of(store))
        for name in ("facts.json", "adapter.safetensors"):
            content = folder.read_bytes(name)
            folder.delete(name)
            try:
                with pytest.raises(RequestError, match=f"{name} is missing") as refused:
                    await ask(service, f"{NAME}:2")
            finally:
                folder.write_bytes(name, content)
            assert refused.value.status == 404
            service.adapters._refused.clear()
        assert (await ask(service, f"{NAME}:2")).number == 2

    asyncio.run(run())


def test_a_storage_that_does_not_answer_refuses_no_version_for_good(
    store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        service, loads = Service(), Loads(monkeypatch)
        loads.gate.set()
        await service.configure(settings_of(store))
        wrapped = CheckpointError("version 2 does not work")
        wrapped.__cause__ = OSError("no route to host")
        loads.errors = [OSError("no route to host"), wrapped]
        for _ in range(2):
            with pytest.raises(RequestError) as refused:
                await ask(service, f"{NAME}:2")
            assert refused.value.status == 503
        assert (await ask(service, f"{NAME}:2")).number == 2

    asyncio.run(run())


def test_an_adapter_may_be_named_while_it_is_a_canary(store: PretrainedStore) -> None:
    async def run() -> None:
        service = Service()
        traffic = Traffic(version=1, canary=TrafficShare(version=2, fraction=0.0))
        await service.configure(settings_of(store).model_copy(update={"traffic": traffic}))
        assert (await ask(service, f"{NAME}:2")).number == 2
        traffic = Traffic(version=1, canary=TrafficShare(version=OTHER, fraction=0.0))
        await service.configure(settings_of(store).model_copy(update={"traffic": traffic}))
        # It has another base, which only the traffic may bring into memory.
        with pytest.raises(RequestError) as refused:
            await ask(service, f"{NAME}:{OTHER}")
        assert refused.value.status == 403

    asyncio.run(run())


def test_adapters_leave_with_their_base(store: PretrainedStore) -> None:
    async def run() -> None:
        now_s = 10.0
        service = Service(now_s=lambda: now_s, unload_delay_s=0.0)
        await service.configure(settings_of(store))
        await ask(service, f"{NAME}:2")
        moved = {"traffic": Traffic(version=OTHER), "before": Traffic(version=1), "since_s": 10.2}
        await service.configure(settings_of(store).model_copy(update=moved))
        # Until the change it answers as before.
        assert (await ask(service, f"{NAME}:2")).number == 2
        now_s = 10.2
        await wait_for(lambda: sorted(service.loaded) == [OTHER])
        assert service.adapters.loaded == []

    asyncio.run(run())
