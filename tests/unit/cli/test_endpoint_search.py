"""A command that changes an endpoint reaches the Ray that serves it, or says that none does."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydc import client, engine
from raydc.cli import endpoint_search
from raydc.cli.endpoint_search import attach_to_endpoint
from raydc.errors import ClusterError, ServeError, UnavailableError
from raydc.serve.control import recorded_endpoint, switchover
from raydc.storage import Storage
from raydc.tracking.endpoint_record import make_record, read_record, remove_record, write_record

URL = "http://127.0.0.1:8000"
BAD_FIELDS = [
    ("version", "1"),
    ("version", None),
    ("url", 1),
    ("ray_address", None),
    ("change", ["x"]),
    ("time_s", "x"),
    ("time_s", 1e300),
]


class Rays:
    """Stands in for the Rays of this machine, on which endpoints of `digits` may run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str | None] = []
        self.served_on: str | None = None
        self.answering: int | None = None
        self.refuses = False
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(engine, "attach", self.attach)
        monkeypatch.setattr(switchover, "find_endpoint", self.find)
        monkeypatch.setattr(client, "health", self.health)

    def attach(self, address: str | None) -> bool:
        self.asked.append(address)
        if self.refuses:
            raise ClusterError("wrong token")
        return True

    def find(self, *_: object) -> dict[str, str] | None:
        return {} if self.served_on is not None and self.asked[-1] == self.served_on else None

    def health(self, url: str, timeout_s: float) -> dict[str, object]:
        assert (url, timeout_s) == (URL, 3.0)
        if self.answering is None:
            raise UnavailableError("nothing there")
        return {"model": "digits", "version": str(self.answering)}


@pytest.fixture
def rays(monkeypatch: pytest.MonkeyPatch) -> Rays:
    return Rays(monkeypatch)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def head() -> Iterator[str]:
    """Address of a Ray that listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def closed() -> str:
    """Address of a Ray that has ended."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def note(storage: Storage, ray_address: str) -> None:
    write_record(storage, "digits", make_record("production", URL, ray_address, 1))


def search(storage: Storage, address: str | None = None) -> endpoint_search.Search:
    return attach_to_endpoint(storage, "digits", "production", address)


def test_ray_of_the_record_is_taken_and_not_the_newest(
    rays: Rays, storage: Storage, head: str
) -> None:
    rays.served_on = head
    note(storage, head)
    found = search(storage)
    assert (found.attached, found.gone, rays.asked) == (True, None, [head])


def test_without_a_record_any_ray_is_taken(rays: Rays, storage: Storage) -> None:
    found = search(storage)
    assert (found.attached, rays.asked) == (True, [None])
    assert found.reason == "no running endpoint serves it"


def test_endpoint_that_is_gone_is_told(rays: Rays, storage: Storage, head: str) -> None:
    # Its Ray has ended, and no other one is asked.
    note(storage, closed())
    found = search(storage)
    assert (found.attached, rays.asked) == (False, [])
    assert f"no endpoint follows it: the one at {URL}, set by process " in found.reason
    assert found.reason.endswith(", is gone or cannot be reached from here")
    # Its Ray runs, without it.
    note(storage, head)
    found = search(storage)
    assert (found.attached, found.gone is not None) == (True, True)


def test_alias_does_not_move_without_an_endpoint_that_answers(
    rays: Rays, storage: Storage, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rays.answering = 1
    gone = closed()
    note(storage, gone)
    with pytest.raises(ServeError, match=f"answers at {URL}; it is on the Ray at {gone}, which"):
        search(storage)
    note(storage, head)
    with pytest.raises(ServeError, match=r"and not on the one at other:1"):
        search(storage, "other:1")
    monkeypatch.setenv("RAY_ADDRESS", "another:1")
    with pytest.raises(ServeError, match=r"and not on the one at another:1"):
        search(storage)
    monkeypatch.delenv("RAY_ADDRESS")
    rays.refuses = True
    with pytest.raises(ServeError, match="cannot be reached: wrong token"):
        search(storage)


def test_given_ray_is_taken_if_it_serves_the_alias(rays: Rays, storage: Storage, head: str) -> None:
    rays.served_on, rays.answering = "other:1", 1
    note(storage, head)
    assert search(storage, "other:1").gone is None
    assert rays.asked == ["other:1"]


def test_record_of_another_ray_stays(storage: Storage) -> None:
    note(storage, "new:1")
    remove_record(storage, "digits", "production", "old:1")
    assert read_record(storage, "digits", "production") is not None
    remove_record(storage, "digits", "production", "new:1")
    assert read_record(storage, "digits", "production") is None


def test_damaged_record_is_none(rays: Rays, storage: Storage) -> None:
    path = "models/digits/endpoints/production.json"
    note(storage, "127.0.0.1:1")
    whole = storage.read_json(path)
    wrong = [{**whole, name: value} for name, value in BAD_FIELDS]
    contents = [b"", b"[]", b"{}", b"\xff", *(json.dumps(value).encode() for value in wrong)]
    for content in contents:
        storage.write_bytes(path, content)
        assert search(storage).attached, content
    assert rays.asked == [None] * len(contents)


def test_endpoint_on_another_ray_counts_as_in_use(rays: Rays, storage: Storage) -> None:
    note(storage, "other:1")
    assert recorded_endpoint.endpoints_elsewhere(storage, "digits", []) == []
    rays.answering = 2
    found = recorded_endpoint.endpoints_elsewhere(storage, "digits", [])
    assert [(one["alias"], one["url"], one["version"]) for one in found] == [
        ("production", URL, 1),
        ("production", URL, 2),
    ]
    assert recorded_endpoint.endpoints_elsewhere(storage, "digits", [{"url": URL}]) == []
