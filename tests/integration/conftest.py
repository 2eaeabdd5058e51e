"""One Ray for all integration tests, and for those that ask one, an endpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import small_models
from endpoints import SMALL, register

from raydc import engine, serve
from raydc.spec.sections import Spec
from raydc.storage import Storage


@pytest.fixture(scope="session")
def ray_engine() -> Iterator[engine.Engine]:
    """A local Ray with more logical CPUs than the machine, so that small jobs run together."""
    yield engine.connect(num_cpus=4)
    threads = {thread.name for thread in threading.enumerate()}
    engine.disconnect()
    # What goes on in native code while the process ends may crash it.
    left = {thread.name for thread in threading.enumerate() if "router" in thread.name}
    assert not left, f"still there: {left} of {threads}"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A registry with versions 1 and 2 of `small`, and a version 3 with wrong golden rows."""
    store = Storage(str(tmp_path_factory.mktemp("serve") / "store"))
    for seed in range(3):
        register(store, small_models.table_features(), seed, golden_is_wrong=seed == 2)
    return store


@pytest.fixture(scope="module")
def spec(storage: Storage) -> Spec:
    return small_models.small_spec(
        storage.uri, ray_actor_options=SMALL, autoscaling_config={"max_replicas": 1}
    )


@pytest.fixture(scope="module")
def endpoint(ray_engine: engine.Engine, storage: Storage, spec: Spec) -> Iterator[serve.Endpoint]:
    yield serve.deploy(spec, storage, 1, who="ada", why="first")
    serve.shutdown()


@pytest.fixture
def first(endpoint: serve.Endpoint, storage: Storage) -> serve.Endpoint:
    """The endpoint, with version 1."""
    serve.promote(storage, "small", "production", 1)
    return endpoint
