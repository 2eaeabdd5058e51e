"""What the client sends for rows and images, and what it refuses to send."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted_endpoint import Asking, Scripted

from raydc import client
from raydc.client import Prediction
from raydc.errors import UsageError


def test_predict_posts_rows_as_json(endpoint: Scripted, ask: Asking) -> None:
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_predict_names_a_value_that_json_cannot_hold(value: float) -> None:
    with pytest.raises(UsageError, match=r"rows\[1\]\.age is (nan|inf).*give None"):
        client.predict("http://a", rows=[{"age": 1.0}, {"age": value}])
    with pytest.raises(UsageError, match="is of type object"):
        client.predict("http://a", rows=[{"age": object()}])
    with pytest.raises(UsageError, match="not a list of rows"):
        client.predict("http://a", rows={"age": 1})  # type: ignore[arg-type]


def test_predict_reaches_an_endpoint_below_a_path(endpoint: Scripted) -> None:
    client.predict(endpoint.url + "/digits/", rows=[{}])
    assert endpoint.requests[0][1] == "/digits/predict"


def test_predict_posts_an_image_file_unchanged(
    endpoint: Scripted, ask: Asking, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG...")
    for image in (path, str(path), b"\x89PNG..."):
        ask(endpoint.url, given=(None, image))
    assert {(headers["content-type"], body) for _, _, headers, body in endpoint.requests} == {
        ("image/png", b"\x89PNG...")
    }


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1), (8, 6, 3)])
def test_predict_posts_pixels_without_loss(endpoint: Scripted, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    client.predict(endpoint.url, image=pixels)
    ((_, _, headers, body),) = endpoint.requests
    assert headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))), pixels.squeeze())


def test_predict_refuses_pixels_of_another_type_or_shape() -> None:
    for pixels in (np.zeros((8, 8), np.float32), np.zeros((3, 8, 8), np.uint8)):
        with pytest.raises(UsageError, match=r"uint8 \[H, W\]"):
            client.predict("http://a", image=pixels)


def test_predict_takes_either_rows_or_an_image() -> None:
    with pytest.raises(UsageError, match="one of the two"):
        client.predict("http://a", rows=[{}], image=b"x")
    with pytest.raises(UsageError, match="one of the two"):
        client.predict("http://a")


def test_predict_names_an_unreadable_image(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.png: No such file"):
        client.predict("http://a", image=tmp_path / "none.png")
