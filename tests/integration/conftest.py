"""One Ray for all integration tests, and for those that ask one, an endpoint."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import small_models
from endpoints import SMALL, register, take_down
from ranks import Ranks

from raydc import engine, serve
from raydc.spec.sections import Spec
from raydc.storage import Storage

_END_SERVE = """
import sys
import ray
from ray import serve
ray.init(sys.argv[1], log_to_driver=False, logging_level="warning")
serve.shutdown()
"""
_END_TIMEOUT_S = 120


@pytest.fixture(scope="session")
def ray_engine() -> Iterator[engine.Engine]:
    """A local Ray with more logical CPUs than the machine, so that small jobs run together."""
    connected = engine.connect(num_cpus=4)
    yield connected
    # Modules leave Serve to the next one. A process of its own ends it: handles of this one may
    # belong to a command that has ended, and Serve cannot close them any more.
    command = [sys.executable, "-c", _END_SERVE, connected.address]
    subprocess.run(command, check=True, timeout=_END_TIMEOUT_S)
    threads = {thread.name for thread in threading.enumerate()}
    engine.disconnect()
    # What goes on in native code while the process ends may crash it.
    left = {thread.name for thread in threading.enumerate() if "router" in thread.name}
    assert not left, f"still there: {left} of {threads}"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Processes that train together without Ray."""
    pool = Ranks(4, tmp_path_factory.mktemp("ranks"))
    yield pool
    pool.close()


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
    take_down()


@pytest.fixture
def first(endpoint: serve.Endpoint, storage: Storage) -> serve.Endpoint:
    """The endpoint, with version 1 alone."""
    (now,) = [one for one in serve.status() if one["model"] == "small"]
    # A promotion waits for the instant at which all replicas switch.
    if (now["version"], now["canary"], now["shadow"]) != (1, None, None):
        serve.promote(storage, "small", "production", 1)
    return endpoint
