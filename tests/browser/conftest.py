"""One Chromium and one endpoint per model, shared by the tests of this folder."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import required
import served
import small_models
from chromium import Browser, find_obstacle
from served import Served

from raydc.features import Features
from raydc.storage import Storage
from raydc.tokens import TokenStore


@pytest.fixture(scope="module", autouse=True)
def require_browser() -> None:
    """Skips before models are trained that no browser would show."""
    obstacle = find_obstacle()
    if obstacle is not None:
        required.absent(obstacle)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    made = Browser()
    try:
        yield made
    finally:
        made.quit()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(str(tmp_path_factory.mktemp("browser") / "store"))


@pytest.fixture(scope="module")
def digits(store: Storage) -> Iterator[Served]:
    """A model of scikit-learn's digits, 8 x 8 pixels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    served.train(
        store, "digits", {"name": "cnn", "depth": 2, "width": 16}, images, data.target, epochs=8
    )
    with Served(store, "digits").running() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def mnist(store: Storage, shared_data: Path) -> Iterator[Served]:
    """A model of MNIST's digits, 28 x 28 pixels."""
    images = read_idx(shared_data / "mnist" / "t10k-images-idx3-ubyte.gz")[:4000]
    labels = read_idx(shared_data / "mnist" / "t10k-labels-idx1-ubyte.gz")[:4000]
    served.train(store, "mnist", {"name": "mlp", "hidden": [256, 128]}, images, labels, epochs=3)
    with Served(store, "mnist").running() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def table(store: Storage) -> Iterator[Served]:
    """A classifier of two numbers and a category, random weights, two versions."""
    for seed in range(2):
        served.register(store, "table", small_models.table_features(), seed)
    with Served(store, "table").running() as endpoint:
        yield endpoint


def _endpoint_of(name: str, make_features: Callable[[], Features]) -> Any:
    """Makes the fixture of this name: an endpoint of a model with random weights."""

    @pytest.fixture(scope="module", name=name)
    def endpoint(store: Storage) -> Iterator[Served]:
        served.register(store, name, make_features())
        with Served(store, name).running() as running:
            yield running

    return endpoint


# An image, a text and a number.
posts = _endpoint_of("posts", small_models.post_features)
# Any of three labels.
labels = _endpoint_of("labels", small_models.label_features)
# A regression of one number.
price = _endpoint_of("price", small_models.price_features)
# Images that are not drawings.
photos = _endpoint_of("photos", small_models.picture_features)


@pytest.fixture(scope="module")
def guarded(table: Served, store: Storage) -> Iterator[tuple[Served, str]]:
    """An endpoint that needs a token, and a token for it."""
    token = TokenStore(store, table.model).create("ada", ("read",))
    with Served(store, table.model, auth="token").running() as endpoint:
        yield endpoint, token


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    content = gzip.decompress(path.read_bytes())
    num_axes = content[3]
    shape = np.frombuffer(content, ">u4", num_axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape).copy()
