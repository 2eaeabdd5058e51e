"""Several models behind one Ray: each answers at its own address, and changes alone."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_models
import yaml
from click.testing import CliRunner, Result
from endpoints import SMALL, Load, register, take_down

from raydc import client, engine, serve
from raydc.cli import main
from raydc.errors import ServeError
from raydc.registry import Registry
from raydc.spec.sections import Spec
from raydc.storage import Storage

# Names under which nothing else of this Ray's tests is served.
FIRST, SECOND = "apples", "pears"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Two versions of the first model, one of the second."""
    storage = Storage(str(tmp_path_factory.mktemp("several") / "store"))
    for name, seeds in ((FIRST, (0, 1)), (SECOND, (2,))):
        for seed in seeds:
            register(storage, small_models.table_features(), seed, name)
    return storage


def spec_of(storage: Storage, name: str, **section: object) -> Spec:
    return small_models.small_spec(
        storage.uri,
        name,
        ray_actor_options=SMALL,
        autoscaling_config={"max_replicas": 1},
        **section,
    )


@pytest.fixture(scope="module")
def both(ray_engine: engine.Engine, store: Storage) -> Iterator[list[serve.Endpoint]]:
    """Endpoints of both models on the Ray of the tests."""
    take_down()
    yield [serve.deploy(spec_of(store, name), store, 1) for name in (FIRST, SECOND)]
    take_down()


def raydc(store: Storage, command: str, name: str, *arguments: str) -> Result:
    """A command with the spec of a model, in this process, which is attached to the Ray."""
    path = Path(store.root).parent / f"{name}.yaml"
    section = {"auth": "none", "ray_actor_options": SMALL}
    value = {
        "name": name,
        "storage": store.uri,
        "data": {"source": "rows.csv", "target": "answer"},
        "model": {"name": "mlp", "hidden": [16]},
        "serve": section,
    }
    path.write_text(yaml.safe_dump(value))
    return CliRunner().invoke(main, [command, str(path), *arguments])


def answering(url: str) -> tuple[str, str]:
    """Model and version that answer at an address."""
    answer = client.predict(url, rows=small_models.table_rows(1))
    return answer["model"], answer["version"]


def test_models_answer_at_addresses_of_their_own(both: list[serve.Endpoint]) -> None:
    first, second = both
    assert second.url == f"{first.url}/{SECOND}"
    assert answering(first.url) == (FIRST, "1")
    assert answering(second.url) == (SECOND, "1")
    assert {one["model"]: one["url"] for one in serve.status()} == {
        FIRST: first.url,
        SECOND: second.url,
    }


def test_promote_of_one_model_leaves_the_other(both: list[serve.Endpoint], store: Storage) -> None:
    first, second = both
    with Load(second.url) as load:
        moved = raydc(store, "promote", FIRST, "--version", "2")
        assert moved.exit_code == 0, moved.output
        load.grow()
    assert "and the endpoint answers with it" in moved.output
    assert load.failures == []
    assert set(load.versions) == {"1"}
    assert answering(first.url) == (FIRST, "2")
    assert Registry(store).aliases(SECOND) == {"production": 1}


def test_predict_finds_the_model_of_its_spec(both: list[serve.Endpoint], store: Storage) -> None:
    port = urllib.parse.urlsplit(both[0].url).port
    row = json.dumps(small_models.table_rows(1)[0])
    for name in (FIRST, SECOND):
        asked = raydc(store, "predict", name, "--set", f"serve.port={port}", "--row", row)
        assert asked.exit_code == 0, asked.output
        assert json.loads(asked.stdout)["model"] == name


def test_models_in_use_are_not_removed(both: list[serve.Endpoint], store: Storage) -> None:
    Registry(store).set_alias(SECOND, "other", 1)
    common = ["--storage", store.uri, "--yes"]
    refused = CliRunner().invoke(main, ["rm", "alias", SECOND, "production", *common])
    assert (refused.exit_code, both[1].url in refused.output) == (7, True), refused.output
    Registry(store).remove_alias(SECOND, "other")
    shown = CliRunner().invoke(
        main, ["models", SECOND, "--storage", store.uri, "--address", "auto"]
    )
    assert f"answers at {both[1].url}" in shown.output


def test_stop_takes_one_model_down_and_leaves_the_other(
    both: list[serve.Endpoint], store: Storage, tmp_path: Path
) -> None:
    first, second = both
    elsewhere = raydc(store, "stop", FIRST, "--set", f"storage={tmp_path}")
    assert (elsewhere.exit_code, store.uri in elsewhere.output) == (8, True), elsewhere.output
    with Load(second.url) as load:
        stopped = raydc(store, "stop", FIRST)
        assert stopped.exit_code == 0, stopped.output
        load.grow()
    assert f"stopped   {first.url}: {FIRST} version 2" in stopped.output
    assert f"still up: {SECOND} at {second.url}" in stopped.output
    assert load.failures == []
    assert answering(second.url) == (SECOND, "1")
    with pytest.raises(ServeError):
        client.metadata(first.url, FIRST)
    again = raydc(store, "stop", FIRST)
    assert again.exit_code == 8
    assert f"no endpoint serves {FIRST} on this Ray" in again.output
    assert f"It serves: {SECOND}." in again.output
    # Its spec finds the second one still, though nothing answers at the root.
    port = urllib.parse.urlsplit(first.url).port
    assert client.locate(f"http://127.0.0.1:{port}", SECOND) == second.url


def test_stop_all_ends_every_endpoint_and_open_canaries(
    both: list[serve.Endpoint], store: Storage
) -> None:
    serve.deploy(spec_of(store, FIRST), store, 1)
    started = raydc(store, "canary", FIRST, "--version", "2", "--fraction", "0.5")
    assert started.exit_code == 0, started.output
    stopped = CliRunner().invoke(main, ["stop", "--all"])
    assert stopped.exit_code == 0, stopped.output
    assert stopped.output.count("stopped   ") == 2
    assert "still up" not in stopped.output
    assert serve.status() == []
    assert Registry(store).history(FIRST)[-1]["kind"] == "canary ended"
    nothing = CliRunner().invoke(main, ["stop", "--all"])
    assert (nothing.exit_code, "raydc serves nothing on this Ray" in nothing.output) == (8, True)
