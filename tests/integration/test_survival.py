"""Wrong requests and slow senders over the wire; a client library of the inference protocol.

Replicas survive, and other clients notice nothing.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bad_requests
import numpy as np
import pytest
import small_models
import tritonclient.http as triton
from bad_requests import Bad
from endpoints import SMALL, WAIT_S, ask, register, take_down, wait_for, wait_for_replicas
from tritonclient.utils import InferenceServerException

from raydc import bundle, engine, serve
from raydc.registry import Registry
from raydc.storage import Storage

TIMEOUT_S = 3.0
# Of what the passes send, a quarter may stay: allocators keep some, a leak keeps all.
NUM_PASSES, NUM_LARGE = 4, 40
MAX_GROWTH_FRACTION = 0.25
NUM_SLOW = 12


class Endpoints:
    """Two models on one Serve: `pictures` at `/` with two replicas, `small` below its name."""

    def __init__(self, store: Storage, direct: str) -> None:
        self.store = store
        self.url: dict[str, str] = {}
        self.num_replicas: dict[str, int] = {}
        for model, features, num_replicas in (
            ("pictures", small_models.picture_features(), 2),
            ("small", small_models.table_features(), 1),
        ):
            spec = small_models.small_spec(
                store.uri,
                model,
                ray_actor_options=SMALL,
                autoscaling_config={"min_replicas": num_replicas, "max_replicas": num_replicas},
                max_ongoing_requests=4,
                max_queued_requests=4,
                request_timeout_s=TIMEOUT_S,
                direct=direct,
                **bad_requests.LIMITS,
            )
            self.num_replicas[model] = num_replicas
            self.url[model] = serve.deploy(spec, store, register(store, features, 0, model)).url

    def states(self) -> list[dict[str, Any]]:
        """States of the three replicas."""
        return [
            state
            for model, number in self.num_replicas.items()
            for state in wait_for_replicas(model, number)
        ]

    def answered(self) -> int:
        """Requests that replicas have answered, all together."""
        return sum(sum(state["answered"].values()) for state in self.states())

    def rss_bytes(self) -> int:
        """Memory of the three replicas."""
        status = [Path(f"/proc/{state['pid']}/status").read_text() for state in self.states()]
        return sum(int(text.partition("VmRSS:")[2].split()[0]) * 1024 for text in status)


# tests/integration/test_answers.py asks both ways in the default suite.
@pytest.fixture(scope="module", params=["auto", pytest.param("off", marks=pytest.mark.soak)])
def endpoints(
    request: pytest.FixtureRequest,
    ray_engine: engine.Engine,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Endpoints]:
    """Both models, on the direct path and on Ray Serve's."""
    made = Endpoints(Storage(str(tmp_path_factory.mktemp("bad") / "store")), request.param)
    made.states()
    yield made
    take_down()


def send(endpoints: Endpoints, bad: Bad) -> tuple[int, Any]:
    """Sends a wrong request once; returns status and JSON."""
    url = endpoints.url["small" if bad.model == "tables" else "pictures"]
    path = (
        bad.path if bad.model == "tables" else bad.path.replace("/models/small", "/models/pictures")
    )
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WAIT_S)
    try:
        connection.request(bad.method, parts.path + path, bad.body, bad.headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_wrong_requests_are_answered_once_and_replicas_survive(endpoints: Endpoints) -> None:
    pids = {state["pid"] for state in endpoints.states()}
    before = endpoints.answered()
    wrong = [
        f"{bad.fault}: {status}, expected {bad.status}: {answer}"
        for bad in bad_requests.ALL
        for status, answer in [send(endpoints, bad)]
        if not bad.is_refused_by(status) or set(answer) != {"error", "request_id"}
    ]
    assert wrong == []
    # Serve counts what it sends to replicas nowhere, so they count what they answer: a request
    # that was sent to a second one, or twice, would make it more.
    wait_for(
        lambda: endpoints.answered() - before >= len(bad_requests.ALL), "all answers are counted"
    )
    assert endpoints.answered() - before == len(bad_requests.ALL)
    assert {state["pid"] for state in endpoints.states()} == pids
    assert not [
        status for state in endpoints.states() for status in state["answered"] if int(status) >= 500
    ]


def test_wrong_requests_leak_no_memory(endpoints: Endpoints) -> None:
    large = [bad for bad in bad_requests.ALL if 100_000 < len(bad.body) <= bad_requests.MAX_BYTES]
    sent = [*bad_requests.ALL, *large * NUM_LARGE]

    def one_pass() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda bad: send(endpoints, bad), sent))

    one_pass()
    before = endpoints.rss_bytes()
    for _ in range(NUM_PASSES):
        one_pass()
    sent_bytes = NUM_PASSES * sum(len(bad.body) for bad in sent)
    assert sent_bytes > 100e6
    assert endpoints.rss_bytes() - before < MAX_GROWTH_FRACTION * sent_bytes


def connect(url: str, head: str) -> socket.socket:
    """A connection on which the head of a request has been sent, and no body."""
    parts = urllib.parse.urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=WAIT_S)
    lines = [f"POST {parts.path}/predict HTTP/1.1", f"host: {parts.hostname}", *head.split("\n")]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return connection


def receive(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the answer; 0 where the connection is closed without one."""
    with connection:
        try:
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()
        except (http.client.HTTPException, ConnectionError):
            return 0, b""


def test_body_of_one_gibibyte_is_refused_before_it_is_sent(endpoints: Endpoints) -> None:
    head = f"content-type: application/json\ncontent-length: {2**30}"
    status, content = receive(connect(endpoints.url["pictures"], head))
    assert status == 413
    assert f"max_request_bytes = {bad_requests.MAX_BYTES}" in json.loads(content)["error"]


@pytest.mark.parametrize(
    "head",
    [
        "content-length: -1",
        "content-length: x",
        "content-length: 1\ncontent-length: 2",
        "transfer-encoding: chunked\n\nzz\r\n",
        "a b: c",
        "x" * 200_000,
    ],
)
def test_malformed_http_is_refused_by_haproxy(endpoints: Endpoints, head: str) -> None:
    before = endpoints.answered()
    status, _ = receive(connect(endpoints.url["small"], head))
    assert status in (0, 400, 413, 431)
    assert endpoints.answered() - before <= 1


def test_silent_sender_is_dropped_and_delays_no_other_client(
    endpoints: Endpoints,
) -> None:
    # As many as the replica has places, and more.
    url = endpoints.url["small"]
    pids = {state["pid"] for state in endpoints.states()}
    slow = [
        connect(url, "content-type: application/json\ncontent-length: 200000")
        for _ in range(NUM_SLOW)
    ]
    for connection in slow:
        connection.sendall(b'[{"age": 41')
    answers = Counter(
        ask(url, "POST", "/predict", bad_requests.good("tables"), content_type="application/json")[
            0
        ]
        for _ in range(20)
    )
    assert answers == {200: 20}
    started = time.monotonic()
    statuses = Counter(receive(connection)[0] for connection in slow)
    assert set(statuses) <= {0, 408}, "within the timeout of the sockets"
    assert time.monotonic() - started < WAIT_S
    assert {state["pid"] for state in endpoints.states()} == pids


def test_disconnect_within_a_body_is_no_error_of_the_replica(
    endpoints: Endpoints,
) -> None:
    url = endpoints.url["small"]
    for _ in range(5):
        connection = connect(url, "content-type: application/json\ncontent-length: 1000")
        connection.sendall(b'[{"age": 41')
        connection.close()
    assert (
        ask(url, "POST", "/predict", bad_requests.good("tables"), content_type="application/json")[
            0
        ]
        == 200
    )


# A client library ---------------------------------------------------------------------------------


@pytest.fixture
def library(endpoints: Endpoints) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(urllib.parse.urlsplit(endpoints.url["pictures"]).netloc)
    yield client
    client.close()


def test_triton_client_gets_health_and_metadata(library: triton.InferenceServerClient) -> None:
    assert library.is_server_live()
    assert library.is_server_ready()
    assert library.is_model_ready("pictures")
    assert library.is_model_ready("pictures", "1")
    assert not library.is_model_ready("pictures", "9")
    assert library.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = library.get_model_metadata("pictures", "1")
    assert (metadata["name"], metadata["versions"]) == ("pictures", ["1"])
    (given,) = metadata["inputs"]
    assert (given["name"], given["datatype"], given["shape"]) == ("image", "UINT8", [-1, 8, 8])
    assert [one["name"] for one in metadata["outputs"]] == ["scores", "label"]
    with pytest.raises(InferenceServerException, match="no model 'large'"):
        library.get_model_metadata("large")


@pytest.mark.parametrize("asked_in_binary", [True, False])
@pytest.mark.parametrize("given_in_binary", [True, False])
def test_triton_client_infers_in_json_and_binary(
    endpoints: Endpoints,
    library: triton.InferenceServerClient,
    given_in_binary: bool,
    asked_in_binary: bool,
) -> None:
    pixels = np.stack(small_models.pictures(5))[:, :, :, 0]
    image = triton.InferInput("image", [5, 8, 8], "UINT8")
    image.set_data_from_numpy(pixels, binary_data=given_in_binary)
    outputs = [
        triton.InferRequestedOutput(name, binary_data=asked_in_binary)
        for name in ("scores", "label")
    ]
    found = library.infer("pictures", [image], model_version="1", outputs=outputs, request_id="r-1")
    offline = bundle.load(Registry(endpoints.store).folder("pictures", 1)).predict_columns(
        {"image": pixels}
    )
    expected = [list(one["scores"].values()) for one in offline]
    np.testing.assert_allclose(found.as_numpy("scores"), expected, rtol=1e-5)
    labels = [
        label.decode() if isinstance(label, bytes) else label for label in found.as_numpy("label")
    ]
    assert labels == [one["label"] for one in offline]
    assert found.get_response()["id"] == "r-1"


def test_triton_client_without_outputs_gets_all_in_binary(
    library: triton.InferenceServerClient,
) -> None:
    files = [bad_requests.png(8, 8), bad_requests.png(30, 20, "RGB", "JPEG")]
    image = triton.InferInput("image", [2], "BYTES")
    image.set_data_from_numpy(np.array(files, dtype=np.object_))
    found = library.infer("pictures", [image])
    assert found.as_numpy("scores").shape == (2, 3)
    assert "binary_data_size" in found.get_output("scores")["parameters"]


def test_triton_client_gets_the_error_message(library: triton.InferenceServerClient) -> None:
    image = triton.InferInput("image", [1, 4, 4, 4], "UINT8")
    image.set_data_from_numpy(np.zeros((1, 4, 4, 4), np.uint8))
    with pytest.raises(
        InferenceServerException,
        match=r"inputs\[0\].shape is \[1, 4, 4, 4\], expected \[-1, 8, 8\]",
    ):
        library.infer("pictures", [image])
