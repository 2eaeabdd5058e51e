"""The endpoint on Ray Serve: it answers as registered, and a change of version fails no request."""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import socket
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import small_models
from endpoints import SMALL, WAIT_S, Load, ask, register, wait_for, wait_for_replicas
from ray import serve as ray_serve

from raydc import client, engine, serve
from raydc.engine import serve_client
from raydc.errors import CheckpointError, OvertakenError, RegistryError, ServeError
from raydc.features import Features, Numeric, Signature
from raydc.registry import Registry
from raydc.serve.app import DEPLOYMENT
from raydc.serve.control import application as application_module
from raydc.serve.control import rollout, switchover
from raydc.spec.sections import Spec
from raydc.storage import Storage


def test_deploy_names_a_port_that_is_taken(
    ray_engine: engine.Engine, storage: Storage, tmp_path: Path
) -> None:
    if serve_client.applications():
        pytest.skip("Ray Serve runs already, and listens elsewhere")
    ray_serve.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = small_models.small_spec(storage.uri, ray_actor_options=SMALL, port=port)
        with pytest.raises(
            ServeError, match=rf"no endpoint at 127\.0\.0\.1:{port}: Address already in use"
        ) as error:
            serve.deploy(given, storage, 1)
    assert "choose another serve.port" in str(error.value)
    assert Registry(storage).aliases("small") == {}


def test_requests_pass_haproxy(endpoint: serve.Endpoint) -> None:
    assert serve_client.has_haproxy()


# Versions -----------------------------------------------------------------------------------------


def test_promote_and_rollback_fail_no_request(first: serve.Endpoint, storage: Storage) -> None:
    with Load(first.url) as load:
        assert serve.promote(storage, "small", "production", 2, why="better").version == 2
        num_before = len(load.versions)
        load.grow()
        # Those in flight when promote returned may carry the old version, at most one per client.
        assert set(load.versions[num_before + len(load.sequences) :]) == {"2"}
        assert client.metadata(first.url, "small")["versions"] == ["2"]
        assert serve.rollback(storage, "small", "production", why="worse").version == 1
        load.grow()
    assert load.failures == []
    assert set(load.versions) == {"1", "2"}
    assert load.versions[-1] == "1"


def test_version_that_does_not_load_never_answers(first: serve.Endpoint, storage: Storage) -> None:
    history = Registry(storage).history("small")
    with Load(first.url) as load:
        with pytest.raises(
            ServeError, match=r"version 3 is refused: golden rows\[0\]: output 'no'"
        ):
            serve.promote(storage, "small", "production", 3)
        load.grow()
        serve.promote(storage, "small", "production", 2)
        load.grow()
    assert load.failures == []
    assert set(load.versions) == {"1", "2"}
    assert Registry(storage).aliases("small") == {"production": 2}
    assert len(Registry(storage).history("small")) == len(history) + 1


def test_damaged_version_is_refused_before_any_change(
    first: serve.Endpoint, storage: Storage, spec: Spec
) -> None:
    version = register(storage, small_models.table_features(), 7)
    weights = Registry(storage).folder("small", version).local_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        serve.deploy(spec, storage, version)
    with pytest.raises(ServeError, match=r"model\.safetensors"):
        serve.promote(storage, "small", "production", version)
    assert client.predict(first.url, rows=small_models.table_rows(1))["version"] == "1"
    assert Registry(storage).aliases("small") == {"production": 1}


def test_promote_refuses_missing_versions(first: serve.Endpoint, storage: Storage) -> None:
    with pytest.raises(RegistryError, match="no version 99"):
        serve.promote(storage, "small", "production", 99)
    with pytest.raises(RegistryError, match="no alias 'canary'"):
        serve.rollback(storage, "small", "canary")


def test_canary_answers_its_fraction_and_clients_keep_their_version(
    first: serve.Endpoint, storage: Storage
) -> None:
    with Load(first.url) as load:
        rollout.start(storage, "small", "production", "canary", 2, 0.3, who="eve", why="try it")
        load.grow()

        def have_answered() -> bool:
            tallies = rollout.observe(storage, "small", "production").tallies
            return all(side in tallies and tallies[side].num_answered > 0 for side in (1, 2))

        wait_for(have_answered, "answers of both versions are counted")
        serve.promote(storage, "small", "production", 2, who="eve", why="it is good")
        load.grow()
    assert load.failures == []
    assert {load.versions[-1], load.versions[-2]} == {"2"}
    assert load.sequences == ["12"] * 4, "no client sees a version again that it has left"
    history = Registry(storage).history("small")[-3:]
    assert [(one["kind"], one["from"], one["to"]) for one in history] == [
        ("canary", None, 2),
        ("set", 1, 2),
        ("canary ended", 2, None),
    ]
    assert (history[0]["who"], history[0]["why"], history[0]["fraction"]) == ("eve", "try it", 0.3)


def test_canary_that_does_not_load_changes_nothing(first: serve.Endpoint, storage: Storage) -> None:
    history = Registry(storage).history("small")
    with Load(first.url) as load:
        with pytest.raises(
            ServeError, match=r"version 3 is refused: golden rows\[0\]: output 'no'"
        ):
            rollout.start(storage, "small", "production", "canary", 3, 0.5)
        load.grow()
    assert load.failures == []
    assert set(load.versions) == {"1"}
    assert Registry(storage).history("small") == history


def test_concurrent_declaration_of_another_driver_stands(
    first: serve.Endpoint, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = application_module.find_application("small")
    assert theirs is not None
    told = application_module.read_settings(theirs).model_copy(update={"max_queued_requests": 77})
    put = switchover.put_application

    def overtaken(application: application_module.Application) -> None:
        put(application)
        put(application_module.replace_settings(theirs, told))

    monkeypatch.setattr(switchover, "put_application", overtaken)
    with pytest.raises(
        OvertakenError, match="somebody else has changed the endpoint of small meanwhile"
    ):
        serve.promote(storage, "small", "production", 2)
    found = application_module.find_application("small")
    assert found is not None
    assert application_module.read_settings(found) == told
    assert Registry(storage).aliases("small")["production"] == 1
    assert client.metadata(first.url, "small")["versions"] == ["1"]


def test_shadow_gets_copies_and_answers_no_client(first: serve.Endpoint, storage: Storage) -> None:
    rollout.start(storage, "small", "production", "shadow", 2, 1.0)
    with Load(first.url) as load:

        def has_rows() -> bool:
            counted = rollout.observe(storage, "small", "production").shadow
            return bool(counted and counted["num_rows"] >= 5)

        wait_for(has_rows, "copies in the shadow")
    assert (load.failures, set(load.versions)) == ([], {"1"})
    assert rollout.end(storage, "small", "production", "shadow").version == 2
    with pytest.raises(ServeError, match="has no shadow"):
        rollout.end(storage, "small", "production", "shadow")


def test_other_alias_moves_without_the_endpoint(first: serve.Endpoint, storage: Storage) -> None:
    serve.promote(storage, "small", "staging", 2)
    assert client.metadata(first.url, "small")["versions"] == ["1"]


# The spec -----------------------------------------------------------------------------------------


def declared(model: str) -> dict[str, Any]:
    """The deployment's configuration as Serve's controller holds it."""
    details = serve_client._client().get_serve_details()
    config: dict[str, Any] = details["applications"][model]["deployments"][DEPLOYMENT][
        "deployment_config"
    ]
    return config


def test_deploy_passes_the_spec_to_serve(
    first: serve.Endpoint, storage: Storage, spec: Spec
) -> None:
    autoscaling = {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 7.0,
        "upscale_delay_s": 11.0,
        "downscale_delay_s": 12.0,
        "look_back_period_s": 13.0,
    }
    changed = small_models.small_spec(
        storage.uri,
        ray_actor_options=SMALL,
        autoscaling_config=autoscaling,
        max_ongoing_requests=20,
        max_queued_requests=30,
        max_batch_size=5,
        batch_wait_timeout_s=0.001,
        request_timeout_s=9.0,
        max_request_bytes=1000,
        max_request_rows=11,
        max_request_pixels=12,
        optimize="auto",
    )
    assert serve.deploy(changed, storage, 1).url == first.url
    config = declared("small")
    assert {name: config["autoscaling_config"][name] for name in autoscaling} == autoscaling
    assert config["max_ongoing_requests"] > 20 + 30, "a replica must get what it is to refuse"
    assert config["ray_actor_options"]["num_cpus"] == 0.1
    section = changed.serve
    assert section is not None
    limits = (
        "optimize",
        "max_ongoing_requests",
        "max_queued_requests",
        "max_batch_size",
        "batch_wait_timeout_s",
    )
    wait_for_replicas(
        "small",
        settings={
            name: getattr(section, name)
            for name in (*limits, "max_request_rows", "max_request_pixels")
        },
    )
    assert (
        ask(first.url, "POST", "/predict", b" " * 1001, content_type="application/json")[0] == 413
    )
    # HAProxy learns of the limits later than replicas do, so other tests do not change them.
    serve.deploy(spec, storage, 1)


def test_running_serve_refuses_another_port(first: serve.Endpoint, storage: Storage) -> None:
    port = urllib.parse.urlsplit(first.url).port
    given = small_models.small_spec(storage.uri, port=1 if port != 1 else 2)
    with pytest.raises(ServeError, match=f"listens on 127.0.0.1:{port} already"):
        serve.deploy(given, storage, 1)


def test_failed_first_deployment_leaves_nothing(first: serve.Endpoint, storage: Storage) -> None:
    version = register(storage, small_models.table_features(), 11, "bad", golden_is_wrong=True)
    given = small_models.small_spec(storage.uri, "bad", ray_actor_options=SMALL)
    with pytest.raises(ServeError, match="golden rows"):
        serve.deploy(given, storage, version)
    assert [one["model"] for one in serve.status()] == ["small"]
    assert Registry(storage).aliases("bad") == {}
    assert client.predict(first.url, rows=small_models.table_rows(1))["model"] == "small"


def test_killed_replica_returns_with_its_version(first: serve.Endpoint, storage: Storage) -> None:
    serve.promote(storage, "small", "production", 2)

    def actors() -> list[dict[str, str]]:
        return [
            one
            for one in ray.util.list_named_actors(all_namespaces=True)
            if "small#" in one["name"]
        ]

    wait_for(lambda: len(actors()) == 1, "one replica, without those that are on their way out")
    (actor,) = actors()
    ray.kill(ray.get_actor(actor["name"], actor["namespace"]), no_restart=True)

    def is_back() -> bool:
        names = [one["name"] for one in actors()]
        return len(names) == 1 and names != [actor["name"]]

    wait_for(is_back, "another replica")
    assert (
        client.predict(first.url, rows=small_models.table_rows(1), timeout_s=WAIT_S)["version"]
        == "2"
    )


# Two models ---------------------------------------------------------------------------------------


def slow_features() -> Features:
    """One number: the seconds that the forward pass takes."""
    return Features(
        Signature("vector", (1,), "float32", (), (), "regression"),
        "took",
        {"seconds": Numeric(0.0, 0.0, 1.0)},
    )


@pytest.fixture(scope="module")
def slow(endpoint: serve.Endpoint, storage: Storage) -> Iterator[serve.Endpoint]:
    """A second model on the same Serve, of a chosen duration, with up to two replicas."""
    made = storage / "made-slow"
    small_models.write_slow_bundle(made, slow_features())
    version = Registry(storage).register("slow", made, {})
    autoscaling = {
        "max_replicas": 2,
        "target_ongoing_requests": 1.0,
        "upscale_delay_s": 0.0,
        "look_back_period_s": 2.0,
    }
    given = small_models.small_spec(
        storage.uri,
        "slow",
        ray_actor_options=SMALL,
        autoscaling_config=autoscaling,
        max_ongoing_requests=2,
        max_queued_requests=1,
        request_timeout_s=20.0,
    )
    yield serve.deploy(given, storage, version)
    serve.shutdown("slow")


def test_each_model_has_its_page(slow: serve.Endpoint, first: serve.Endpoint) -> None:
    for endpoint in (first, slow):
        shown = httpx.get(endpoint.url, follow_redirects=True, timeout=WAIT_S)
        assert (shown.status_code, shown.url.path) == (
            200,
            urllib.parse.urlsplit(endpoint.url).path + "/",
        )
        assert shown.headers["content-security-policy"].startswith("default-src 'none'")
        for name in re.findall(r'(?:href|src)="([\w.]+\.\w+)"', shown.text):
            assert httpx.get(f"{endpoint.url}/{name}", timeout=WAIT_S).status_code == 200


def _read_error(connection: socket.socket) -> bytes:
    """An answer up to the end of its JSON, which may come in pieces."""
    content = b""
    while not content.endswith(b"}") and (piece := connection.recv(4096)):
        content += piece
    return content


def test_bodies_that_dribble_keep_no_other_request_out(first: serve.Endpoint, spec: Spec) -> None:
    wait_for_replicas("small", 1, {"max_queued_requests": spec.serve.max_queued_requests})
    parts = urllib.parse.urlsplit(first.url)
    limits = spec.serve
    # HAProxy itself waits for smaller bodies.
    head = f"POST {parts.path}/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n["
    # More than a replica reads at once, by the spare places and a few.
    count = limits.max_ongoing_requests + limits.max_queued_requests + 16 + 8
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as answered:
        for _ in range(count):
            connection = socket.create_connection((parts.hostname, parts.port), WAIT_S)
            stack.enter_context(connection)
            answered.register(connection, selectors.EVENT_READ)
            connection.sendall(head.encode())
        # All places are taken when the first one is refused or makes way.
        refused = answered.select(WAIT_S)
        assert refused
        body = json.dumps(small_models.table_rows(1)).encode()
        status, _, answer = ask(
            first.url, "POST", "/predict", body, content_type="application/json"
        )
        assert (status, answer["model"]) == (200, "small")
        made_way = [_read_error(key.fileobj) for key, _ in refused]  # type: ignore[arg-type]
    assert all(b"HTTP/1.1 408 " in one and b"too slowly" in one for one in made_way)


def test_second_model_scales_and_refuses_overload(
    slow: serve.Endpoint, first: serve.Endpoint
) -> None:
    assert slow.url == f"{first.url}/slow"
    running = {"small": "RUNNING", "slow": "RUNNING"}
    wait_for(
        lambda: {one["model"]: one["status"] for one in serve.status()} == running,
        "both models run",
    )
    assert client.predict(slow.url, rows=[{"seconds": 0.0}])["model"] == "slow"
    stop = threading.Event()
    codes: Counter[int] = Counter()

    def press() -> None:
        body = json.dumps([{"seconds": 0.5}]).encode()
        while not stop.is_set():
            status, headers, _ = ask(
                slow.url, "POST", "/predict", body, content_type="application/json"
            )
            codes[status] += 1
            if status == 429:
                assert headers["retry-after"] == "1"
                time.sleep(0.2)

    with ThreadPoolExecutor(8) as pool:
        pressing = [pool.submit(press) for _ in range(8)]
        try:
            wait_for(
                lambda: codes[429] > 0 and codes[200] > 0, "requests over the limits are refused"
            )
            wait_for_replicas("slow", 2)
        finally:
            stop.set()
        for one in pressing:
            one.result(timeout=WAIT_S)
    assert set(codes) == {200, 429}
    assert client.predict(first.url, rows=small_models.table_rows(1))["model"] == "small"
