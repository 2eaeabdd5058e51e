"""The client against a real HTTP server that fails on purpose. Attempts are counted; clock and sleep are the test's."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import json
import pickle
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import documentation
import numpy as np
import pytest
from PIL import Image

from raydc import client
from raydc.client import AsyncClient, Client, Prediction, async_client, replies, retry
from raydc.client import sync_client as waiting
from raydc.errors import RaydcError, RefusedError, ServeError, UnavailableError, UsageError

Answer = tuple[int, dict[str, str], bytes]
Part = Answer | str  # Or one of the ways to fail, see `Handler`.
OK: Answer = (200, {}, b'{"predictions": [{"value": 1.0}], "model": "m", "version": "1"}')
DROP, STALL, TRICKLE = "drop", "stall", "trickle"
MAX_TEST_S = 20.0


class Scripted(ThreadingHTTPServer):
    """Gives its answers one after the other, the last one for ever; keeps the requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Part] = [OK]
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.num_connections = 0
        self.closed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def ids(self) -> set[str]:
        return {headers["x-request-id"] for _, _, headers, _ in self.requests}


class Handler(BaseHTTPRequestHandler):
    """DROP ends the connection without an answer, STALL stops in the middle of one, TRICKLE takes seconds for it."""

    server: Scripted
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.num_connections += 1

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers, body))
        answers = self.server.answers
        part = answers.pop(0) if len(answers) > 1 else answers[0]
        status, more, content = part if isinstance(part, tuple) else OK
        if part == DROP:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if part == STALL:
            self.wfile.write(content[:5])
            self.wfile.flush()
            self.rfile.read(1)  # Until the client goes away.
            self.close_connection = True
            return
        pieces = [bytes([one]) for one in content] if part == TRICKLE else [content]
        for piece in pieces:
            time.sleep(0.05 * (part == TRICKLE))
            self.wfile.write(piece)

    do_GET = do_POST = answer

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


class Clock:
    """Time that passes only while the client sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []
        self.draws: list[tuple[float, float]] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.now_s += delay_s

    async def sleep_async(self, delay_s: float) -> None:
        self.sleep(delay_s)

    def uniform(self, low: float, high: float) -> float:
        self.draws.append((low, high))
        return high


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(retry, "monotonic", made.monotonic)
    monkeypatch.setattr(retry, "uniform", made.uniform)
    monkeypatch.setattr(waiting, "sleep", made.sleep)
    monkeypatch.setattr(async_client, "sleep", made.sleep_async)
    return made


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYDC_TOKEN", raising=False)


Asking = Callable[..., Any]


def ask_waiting(
    url: str, calls: int = 1, *, method: str = "predict", given: Any = ([{}],), **options: Any
) -> Any:
    with Client(url, **options) as one:
        for _ in range(calls):
            result = getattr(one, method)(*given)
        return result


def ask_awaited(
    url: str, calls: int = 1, *, method: str = "predict", given: Any = ([{}],), **options: Any
) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, **options) as one:
            for _ in range(calls):
                result = await getattr(one, method)(*given)
            return result

    return asyncio.run(run())


@pytest.fixture(params=[ask_waiting, ask_awaited], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Asking:
    """Makes a client of either kind, calls a method of it, closes it."""
    asking: Asking = request.param
    return asking


def error(status: int, message: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"error": message, "request_id": "r"}).encode()


# What is sent -----------------------------------------------------------------------------------------------


def test_rows_are_posted_as_json(endpoint: Scripted, ask: Asking) -> None:
    rows = [{"age": np.int64(41), "job": None}, {"age": np.float32(0.5), "job": "cook"}]
    answer = ask(endpoint.url, given=[rows])
    assert (answer.predictions, answer.model, answer.version) == (
        (Prediction(value=1.0),),
        "m",
        "1",
    )
    ((method, path, headers, body),) = endpoint.requests
    assert (method, path, headers["content-type"]) == ("POST", "/predict", "application/json")
    assert json.loads(body) == {"rows": [{"age": 41, "job": None}, {"age": 0.5, "job": "cook"}]}
    assert answer.request_id == headers["x-request-id"]
    assert "authorization" not in headers


def test_a_classification_has_a_label_and_scores(endpoint: Scripted, ask: Asking) -> None:
    one = {"label": "yes", "score": 0.75, "scores": {"yes": 0.75, "no": 0.25}, "later": 1}
    endpoint.answers = [
        (200, {}, json.dumps({"predictions": [one], "model": "m", "version": 7}).encode())
    ]
    answer = ask(endpoint.url)
    assert answer.predictions == (Prediction("yes", 0.75, {"yes": 0.75, "no": 0.25}),)
    assert answer.version == "7"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_a_value_that_json_cannot_say_is_named(value: float) -> None:
    with pytest.raises(UsageError, match=r"rows\[1\]\.age is (nan|inf).*give None"):
        client.predict("http://a", rows=[{"age": 1.0}, {"age": value}])
    with pytest.raises(UsageError, match="is of type object"):
        client.predict("http://a", rows=[{"age": object()}])
    with pytest.raises(UsageError, match="one row"):
        client.predict("http://a", rows={"age": 1})  # type: ignore[arg-type]


def test_an_endpoint_below_a_path_is_reached(endpoint: Scripted) -> None:
    client.predict(endpoint.url + "/digits/", rows=[{}])
    assert endpoint.requests[0][1] == "/digits/predict"


def test_a_model_answers_at_the_root_or_below_its_name(endpoint: Scripted) -> None:
    assert client.locate(endpoint.url, "digits") == endpoint.url
    endpoint.answers = [error(404, "no model 'digits'"), OK]
    assert client.locate(endpoint.url, "digits") == f"{endpoint.url}/digits"
    assert [path for _, path, _, _ in endpoint.requests[1:]] == [
        "/v2/models/digits",
        "/digits/v2/models/digits",
    ]
    endpoint.answers = [error(404, "no model 'digits'")]
    with pytest.raises(ServeError, match="no model 'digits'"):
        client.locate(endpoint.url, "digits")


def test_an_image_is_posted_as_it_is(endpoint: Scripted, ask: Asking, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG...")
    for image in (path, str(path), b"\x89PNG..."):
        ask(endpoint.url, given=(None, image))
    assert {(headers["content-type"], body) for _, _, headers, body in endpoint.requests} == {
        ("image/png", b"\x89PNG...")
    }


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1), (8, 6, 3)])
def test_pixels_are_posted_without_loss(endpoint: Scripted, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    client.predict(endpoint.url, image=pixels)
    ((_, _, headers, body),) = endpoint.requests
    assert headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))), pixels.squeeze())


def test_pixels_of_another_kind_are_refused() -> None:
    for pixels in (np.zeros((8, 8), np.float32), np.zeros((3, 8, 8), np.uint8)):
        with pytest.raises(UsageError, match=r"uint8 \[H, W\]"):
            client.predict("http://a", image=pixels)


def test_rows_and_image_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="one of the two"):
        client.predict("http://a", rows=[{}], image=b"x")
    with pytest.raises(UsageError, match="one of the two"):
        client.predict("http://a")


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.png: No such file"):
        client.predict("http://a", image=tmp_path / "none.png")


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a", "http://", "http://a:port"])
def test_what_is_no_address_is_refused(url: str, ask: Asking) -> None:
    with pytest.raises(UsageError, match="is no address"):
        ask(url)


def test_the_token_is_sent_and_never_shown(
    endpoint: Scripted, ask: Asking, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    ask(endpoint.url, token="secret-1", key="ada")
    monkeypatch.setenv("RAYDC_TOKEN", "secret-2\n")
    ask(endpoint.url)
    first, second = (headers for _, _, headers, _ in endpoint.requests)
    assert (first["authorization"], first["x-raydc-key"]) == ("Bearer secret-1", "ada")
    assert second["authorization"] == "Bearer secret-2"
    endpoint.answers = [error(401, "no token that is known")]
    with pytest.raises(RefusedError, match="RAYDC_TOKEN") as refused:
        ask(endpoint.url)
    assert "secret" not in str(refused.value) + repr(Client(endpoint.url))
    with pytest.raises(UsageError, match="token holds characters") as odd:
        ask(endpoint.url, token="secret\n3")
    assert "secret" not in str(odd.value)


# Arrays -----------------------------------------------------------------------------------------------------


def binary_answer(outputs: list[tuple[dict[str, Any], bytes]]) -> Answer:
    named = [
        {**output, "parameters": {"binary_data_size": len(content)}} for output, content in outputs
    ]
    header = json.dumps({"model_name": "m", "model_version": "3", "outputs": named}).encode()
    body = b"".join([header, *(content for _, content in outputs)])
    return 200, {"inference-header-content-length": str(len(header))}, body


def test_arrays_go_and_come_in_binary(endpoint: Scripted, ask: Asking) -> None:
    scores = np.array([[0.25, 0.75], [1.0, 0.0]], dtype="<f4")
    labels = b"".join(struct.pack("<I", len(text)) + text for text in (b"yes", "né".encode()))
    outputs = [
        ({"name": "scores", "datatype": "FP32", "shape": [2, 2]}, scores.tobytes()),
        ({"name": "label", "datatype": "BYTES", "shape": [2]}, labels),
    ]
    endpoint.answers = [binary_answer(outputs)]
    inputs = {
        "age": np.array([41, 7], dtype=">i4"),
        "job": ["cook", "né"],
        "image": np.zeros((2, 4, 3), np.uint8)[:, ::2],
    }
    answer = ask(endpoint.url, method="infer", given=[inputs], model="m/1")
    assert (answer.model, answer.version) == ("m", "3")
    assert np.array_equal(answer.outputs["scores"], scores)
    assert answer.outputs["label"].tolist() == ["yes", "né"]
    ((_, path, headers, body),) = endpoint.requests
    assert path == "/v2/models/m%2F1/infer"
    size = int(headers["inference-header-content-length"])
    sent = json.loads(body[:size])
    assert [(one["name"], one["datatype"], one["shape"]) for one in sent["inputs"]] == [
        ("age", "INT32", [2]),
        ("job", "BYTES", [2]),
        ("image", "UINT8", [2, 2, 3]),
    ]
    assert [one["parameters"]["binary_data_size"] for one in sent["inputs"]] == [8, 15, 12]
    assert body[size : size + 8] == struct.pack("<ii", 41, 7)
    assert (
        body[size + 8 : size + 23]
        == struct.pack("<I", 4) + b"cook" + struct.pack("<I", 3) + "né".encode()
    )
    assert len(body) == size + 35


def test_the_endpoint_is_asked_for_the_model_once(endpoint: Scripted, ask: Asking) -> None:
    output = {"name": "value", "datatype": "FP64", "shape": [1], "data": [2.5]}
    plain = json.dumps({"model_name": "m", "outputs": [output]}).encode()
    endpoint.answers = [(200, {"x-raydc-model": "m"}, b"{}"), (200, {}, plain)]
    answer = ask(endpoint.url, 2, method="infer", given=[{"x": [1.0]}, ["value"]])
    assert answer.outputs["value"].tolist() == [2.5]
    assert [path for _, path, _, _ in endpoint.requests] == [
        "/v2/health/ready",
        *["/v2/models/m/infer"] * 2,
    ]
    assert b'"outputs": [{"name": "value"' in endpoint.requests[1][3]


@pytest.mark.parametrize("value", [1.0, np.zeros(2, complex), [object()]])
def test_what_is_no_tensor_is_named(value: Any) -> None:
    with pytest.raises(UsageError, match="input 'x'"):
        ask_waiting("http://a", method="infer", given=[{"x": value}], model="m")


def test_tensors_that_are_cut_off_are_named(endpoint: Scripted) -> None:
    endpoint.answers = [
        binary_answer([({"name": "scores", "datatype": "FP32", "shape": [2, 2]}, b"1234")])
    ]
    with pytest.raises(ServeError, match="not as expected"):
        ask_waiting(endpoint.url, method="infer", given=[{"x": [1]}], model="m")


def test_metadata_is_typed(endpoint: Scripted, ask: Asking) -> None:
    x, y = (
        {"name": "x", "datatype": "FP32", "shape": [-1]},
        {"name": "y", "datatype": "FP32", "shape": [-1, 3]},
    )
    value = {
        "name": "m",
        "versions": ["1", "2"],
        "inputs": [x],
        "outputs": [y],
        "parameters": {"task": "regression"},
    }
    endpoint.answers = [(200, {}, json.dumps(value).encode())]
    found = ask(endpoint.url, method="metadata", given=(), model="m")
    assert (found.name, found.versions, found.outputs[0].shape) == ("m", ("1", "2"), (-1, 3))


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"predictions": 1}', b'{"predictions": [1], "model": 1}']
)
def test_an_answer_of_something_else_is_named(endpoint: Scripted, body: bytes) -> None:
    endpoint.answers = [(200, {}, body)]
    with pytest.raises(ServeError, match="Is that address an endpoint"):
        ask_waiting(endpoint.url)


# Attempts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "passing",
    [
        error(503, "not ready"),
        error(429, "full"),
        (404, {}, b"Path '/predict' not found"),
        (408, {}, b"Request timed out"),
        (500, {}, b"Internal Server Error"),
        (502, {}, b"<html>"),
        (504, {}, b""),
        DROP,
    ],
)
def test_what_passes_is_tried_again(
    endpoint: Scripted, ask: Asking, clock: Clock, passing: Part
) -> None:
    endpoint.answers = [passing, passing, OK]
    ask(endpoint.url)
    assert len(endpoint.requests) == 3
    assert len(endpoint.ids) == 1, "one id for all attempts"
    assert clock.draws == [(0.0, 0.1), (0.0, 0.2)]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 415, 422, 500])
def test_a_refusal_is_final_and_in_the_endpoints_words(
    endpoint: Scripted, ask: Asking, clock: Clock, status: int
) -> None:
    endpoint.answers = [error(status, "rows[3].age: 'x' is not a number"), OK]
    with pytest.raises(
        RefusedError, match=rf"answered {status}: rows\[3\].age: 'x' is not a number"
    ) as refused:
        ask(endpoint.url)
    assert len(endpoint.requests) == 1
    assert refused.value.status == status
    assert {refused.value.request_id} == endpoint.ids


def test_another_address_is_told(endpoint: Scripted) -> None:
    endpoint.answers = [(308, {"location": "https://a/predict"}, b"")]
    with pytest.raises(RefusedError, match="It is at https://a/predict"):
        ask_waiting(endpoint.url)


def test_delays_are_drawn_and_have_a_limit(endpoint: Scripted, ask: Asking, clock: Clock) -> None:
    endpoint.answers = [error(503, "not ready")]
    with pytest.raises(
        UnavailableError, match=r"within 30 s and 9 attempts: 503: not ready"
    ) as gone:
        ask(endpoint.url, max_retries=8)
    assert len(endpoint.requests) == 9
    assert clock.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert all(low == 0.0 for low, _ in clock.draws), "full jitter"
    assert (gone.value.status, {gone.value.request_id}) == (503, endpoint.ids)


def test_one_deadline_covers_attempts_and_delays(
    endpoint: Scripted, ask: Asking, clock: Clock
) -> None:
    endpoint.answers = [error(503, "not ready")]
    with pytest.raises(UnavailableError, match=r"within 3 s"):
        ask(endpoint.url, timeout_s=3.0)
    assert sum(clock.slept) == pytest.approx(3.0), "the last delay ends with the time"
    assert len(endpoint.requests) == 5, "there is no attempt without time"


def test_a_call_may_have_a_time_of_its_own(endpoint: Scripted, clock: Clock) -> None:
    endpoint.answers = [error(503, "not ready")]
    with Client(endpoint.url) as one, pytest.raises(UnavailableError, match=r"within 0\.5 s"):
        one.predict([{}], timeout_s=0.5, request_id="q-1")
    assert endpoint.ids == {"q-1"}


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for(
    endpoint: Scripted, ask: Asking, clock: Clock, status: int
) -> None:
    endpoint.answers = [error(status, "full", retry_after="7"), OK]
    ask(endpoint.url)
    assert clock.slept == [7.1]


def test_retry_after_may_be_a_date() -> None:
    def wanted_s(text: str) -> float:
        return retry.retry_after_s(replies.Reply(429, {"retry-after": text}, b"", "r"))

    assert 90.0 < wanted_s(formatdate(time.time() + 100, usegmt=True)) <= 100.0
    assert wanted_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert wanted_s("soon") == wanted_s("") == wanted_s("-5") == 0.0


def test_retry_after_beyond_the_deadline_is_not_waited_for(
    endpoint: Scripted, ask: Asking, clock: Clock
) -> None:
    endpoint.answers = [error(429, "full", retry_after="3600")]
    with pytest.raises(UnavailableError, match="full; it asks for 3600 s"):
        ask(endpoint.url)
    assert len(endpoint.requests) == 1
    assert clock.slept == []


def test_connections_are_reused(endpoint: Scripted, ask: Asking) -> None:
    ask(endpoint.url, 5)
    assert (len(endpoint.requests), endpoint.num_connections) == (5, 1)


def test_a_kept_connection_that_breaks_costs_no_attempt(
    endpoint: Scripted, ask: Asking, clock: Clock
) -> None:
    endpoint.answers = [OK, DROP, error(503, "not ready"), OK]
    ask(endpoint.url, 2, max_retries=1)
    assert len(endpoint.requests) == 4
    assert clock.slept == [0.0, 0.1]


def test_a_new_connection_that_breaks_is_an_attempt(
    endpoint: Scripted, ask: Asking, clock: Clock
) -> None:
    endpoint.answers = [DROP, OK]
    with pytest.raises(UnavailableError, match="1 attempt: Server disconnected"):
        ask(endpoint.url, max_retries=0)


def test_kept_connections_do_not_break_for_ever() -> None:
    call = retry.Call("a", "r", 30.0, 0)
    for _ in range(retry.MAX_IDLE_CONNECTIONS):
        call.start_attempt()
        assert call.delay_after_closed_connection("closed") == 0.0
    call.start_attempt()
    with pytest.raises(UnavailableError):
        call.delay_after_closed_connection("closed")


def test_nobody_there_is_tried_again_and_says_how_to_start_it(ask: Asking, clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UnavailableError, match=r"4 attempts(.|\n)*raydc serve"):
        ask(f"http://127.0.0.1:{port}", max_retries=3)
    assert len(clock.slept) == 3


def test_an_endpoint_that_comes_up_is_found(
    ask: Asking, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    servers: list[ThreadingHTTPServer] = []

    def start(delay_s: float) -> None:
        clock.now_s += delay_s
        if len(clock.draws) == 3:
            monkeypatch.setattr(Scripted, "address", ("127.0.0.1", port), raising=False)
            server = Scripted.__new__(Scripted)
            ThreadingHTTPServer.__init__(server, ("127.0.0.1", port), Handler)
            server.answers, server.requests, server.num_connections = [OK], [], 0
            servers.append(server)
            threading.Thread(target=server.serve_forever, daemon=True).start()

    async def start_async(delay_s: float) -> None:
        start(delay_s)

    monkeypatch.setattr(waiting, "sleep", start)
    monkeypatch.setattr(async_client, "sleep", start_async)
    try:
        assert ask(f"http://127.0.0.1:{port}").version == "1"
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


# Time, by a clock that is real ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["silent", STALL, TRICKLE])
def test_a_server_that_never_ends_is_given_up(endpoint: Scripted, ask: Asking, how: str) -> None:
    endpoint.answers = [how]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}" if how == "silent" else endpoint.url
        with pytest.raises(UnavailableError, match=r"within 0\.2 s and 1 attempt: timed out"):
            ask(url, timeout_s=0.2)


def test_an_attempt_that_hangs_is_tried_again(endpoint: Scripted, ask: Asking) -> None:
    endpoint.answers = [STALL, OK]
    assert ask(endpoint.url, attempt_timeout_s=0.2, timeout_s=MAX_TEST_S).version == "1"
    assert len(endpoint.requests) == 2


def test_readiness_is_asked_once(endpoint: Scripted, ask: Asking, clock: Clock) -> None:
    assert ask(endpoint.url, method="ready", given=()) is True
    endpoint.answers = [error(503, "no model is ready yet")]
    assert ask(endpoint.url, method="ready", given=()) is False
    assert len(endpoint.requests) == 2


# Both clients, and what they cost ---------------------------------------------------------------------------


def test_both_clients_offer_the_same() -> None:
    def offered(kind: type) -> dict[str, list[str]]:
        methods = {
            n: v for n, v in vars(kind).items() if not n.startswith("_") and inspect.isfunction(v)
        }
        return {
            name: list(inspect.signature(method).parameters) for name, method in methods.items()
        }

    assert offered(AsyncClient) == {**offered(Client), "model": ["self"]}, (
        "a property where nothing is awaited"
    )
    assert inspect.signature(Client) == inspect.signature(AsyncClient)


def test_tasks_share_a_client(endpoint: Scripted) -> None:
    async def run() -> list[Any]:
        async with AsyncClient(endpoint.url) as one:
            return await asyncio.gather(*(one.predict([{}]) for _ in range(20)))

    assert len({answer.request_id for answer in asyncio.run(run())}) == 20


def test_what_a_request_failed_with_survives_pickling(endpoint: Scripted, clock: Clock) -> None:
    endpoint.answers = [error(422, "bad")]
    with pytest.raises(RaydcError) as refused:
        ask_waiting(endpoint.url)
    copy = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - exceptions cross processes pickled
    assert (copy.status, copy.request_id, str(copy)) == (
        422,
        refused.value.request_id,
        str(refused.value),
    )


def test_importing_it_is_light() -> None:
    code = "import sys, raydc.client; print([m for m in ('ray', 'torch', 'httpx', 'numpy', 'pandas') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_program_of_the_documentation_runs(
    endpoint: Scripted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (program,) = documentation.blocks("python", "docs/howto/serve-version.md")
    monkeypatch.chdir(tmp_path)
    Path("digit.png").write_bytes(b"\x89PNG")
    said = {
        "predictions": [{"label": "7", "score": 1.0, "scores": {"7": 1.0}}],
        "model": "digits",
        "version": "3",
    }
    scores = {"name": "scores", "datatype": "FP32", "shape": [32, 10]}
    endpoint.answers = [
        (200, {}, json.dumps(said).encode()),
        (200, {"x-raydc-model": "digits"}, b"{}"),
        binary_answer([(scores, bytes(4 * 320))]),
    ]
    code = program.text.replace("http://localhost:8000", endpoint.url)
    exec(compile(code, program.page, "exec"), {})
    assert capsys.readouterr().out == "7 3\n(32, 10)\n"
    assert len(endpoint.requests) == 3
