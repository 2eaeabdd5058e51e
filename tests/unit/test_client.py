"""The client: one deadline, few retries, messages of the endpoint. Against a real HTTP server with scripted answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from raydc import client
from raydc.errors import ServeError, UsageError

Answer = tuple[int, dict[str, str], bytes]
OK: Answer = (200, {}, b'{"predictions": [{"value": 1.0}], "model": "m", "version": "1"}')


class Scripted(ThreadingHTTPServer):
    """Gives its answers one after the other, the last one for ever; keeps the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = [OK]
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Scripted

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers, body))
        answers = self.server.answers
        status, more, content = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in {**more, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_DELAY_S", 0.001)


def error(status: int, message: str, **headers: str) -> Answer:
    return status, headers, json.dumps({"error": message, "request_id": "r"}).encode()


def test_rows_are_posted_as_json(endpoint: Scripted) -> None:
    assert client.predict(endpoint.url, rows=[{"age": 41}])["predictions"] == [{"value": 1.0}]
    ((method, path, headers, body),) = endpoint.requests
    assert (method, path, headers["content-type"]) == ("POST", "/predict", "application/json")
    assert json.loads(body) == {"rows": [{"age": 41}]}


def test_an_endpoint_below_a_path_is_reached(endpoint: Scripted) -> None:
    client.predict(endpoint.url + "/digits/", rows=[{}])
    assert endpoint.requests[0][1] == "/digits/predict"


def test_a_model_answers_at_the_root_or_below_its_name(endpoint: Scripted) -> None:
    assert client.locate(endpoint.url, "digits") == endpoint.url
    endpoint.answers = [error(404, "no model 'digits'"), OK]
    assert client.locate(endpoint.url, "digits") == f"{endpoint.url}/digits"
    assert [path for _, path, _, _ in endpoint.requests[1:]] == ["/v2/models/digits", "/digits/v2/models/digits"]
    endpoint.answers = [error(404, "no model 'digits'")]
    with pytest.raises(ServeError, match="no model 'digits'"):
        client.locate(endpoint.url, "digits")


def test_an_image_is_posted_as_it_is(endpoint: Scripted, tmp_path: Any) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG...")
    for image in (path, str(path), b"\x89PNG..."):
        client.predict(endpoint.url, image=image)
    assert {(headers["content-type"], body) for _, _, headers, body in endpoint.requests} == {
        ("image/png", b"\x89PNG...")
    }


@pytest.mark.parametrize(
    "passing",
    [error(503, "not ready"), error(429, "full", **{"retry-after": "0"}), (404, {}, b"Path '/predict' not found")],
)
def test_what_passes_is_tried_again(endpoint: Scripted, passing: Answer) -> None:
    endpoint.answers = [passing, passing, OK]
    client.predict(endpoint.url, rows=[{}])
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422, 500])
def test_a_refusal_is_final_and_in_the_endpoints_words(endpoint: Scripted, status: int) -> None:
    endpoint.answers = [error(status, "rows[3].age: 'x' is not a number"), OK]
    with pytest.raises(ServeError, match=rf"answered {status}: rows\[3\].age: 'x' is not a number"):
        client.predict(endpoint.url, rows=[{}])
    assert len(endpoint.requests) == 1


def test_retries_have_a_limit(endpoint: Scripted) -> None:
    endpoint.answers = [error(503, "not ready")]
    with pytest.raises(ServeError, match="not ready"):
        client.predict(endpoint.url, rows=[{}])
    assert len(endpoint.requests) == client._MAX_ATTEMPTS


def test_one_deadline_covers_the_retries(endpoint: Scripted) -> None:
    endpoint.answers = [error(503, "not ready", **{"retry-after": "3600"})]
    with pytest.raises(ServeError, match=r"within 0\.2 s"):
        client.predict(endpoint.url, rows=[{}], timeout_s=0.2)
    assert len(endpoint.requests) == 1


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServeError, match="timed out"):
        client.predict(f"http://127.0.0.1:{silent.getsockname()[1]}", rows=[{}], timeout_s=0.2)


def test_nobody_there_says_how_to_start_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServeError, match="raydc serve"):
        client.predict(f"http://127.0.0.1:{port}", rows=[{}], timeout_s=5.0)


def test_an_answer_that_is_not_json_is_named(endpoint: Scripted) -> None:
    endpoint.answers = [(200, {}, b"<html>")]
    with pytest.raises(ServeError, match="not JSON"):
        client.predict(endpoint.url, rows=[{}])


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a", "http://", "http://a:port"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        client.predict(url, rows=[{}])


def test_rows_and_image_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="one of the two"):
        client.predict("http://a", rows=[{}], image=b"x")
    with pytest.raises(UsageError, match="one of the two"):
        client.predict("http://a")


def test_an_image_that_cannot_be_read_is_named(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match=r"none\.png: No such file"):
        client.predict("http://a", image=tmp_path / "none.png")
