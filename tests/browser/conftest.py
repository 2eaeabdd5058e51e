"""One Chromium and one endpoint per model, shared by the tests of this folder."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import required
import served
import small_models
from chromium import Browser, find_obstacle
from served import Served

from raydc.storage import Storage
from raydc.tokens import TokenStore


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    obstacle = find_obstacle()
    if obstacle is not None:
        required.absent(obstacle)
    made = Browser()
    try:
        yield made
    finally:
        made.quit()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(str(tmp_path_factory.mktemp("browser") / "store"))


@pytest.fixture(scope="module")
def digits(browser: Browser, store: Storage) -> Iterator[Served]:
    """The digits of the example, 8x8."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    served.train(
        store, "digits", {"name": "cnn", "depth": 2, "width": 16}, images, data.target, epochs=8
    )
    with Served(store, "digits").running() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def mnist(browser: Browser, store: Storage, shared_data: Path) -> Iterator[Served]:
    """Digits of 28x28."""
    images = read_idx(shared_data / "mnist" / "t10k-images-idx3-ubyte.gz")[:4000]
    labels = read_idx(shared_data / "mnist" / "t10k-labels-idx1-ubyte.gz")[:4000]
    served.train(store, "mnist", {"name": "mlp", "hidden": [256, 128]}, images, labels, epochs=3)
    with Served(store, "mnist").running() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def table(browser: Browser, store: Storage) -> Iterator[Served]:
    """Two numbers and a category to three classes, with random weights; two versions."""
    for seed in range(2):
        served.register(store, "table", small_models.table_features(), seed)
    with Served(store, "table").running() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def price(browser: Browser, store: Storage) -> Iterator[Served]:
    """A regression."""
    served.register(store, "price", small_models.price_features())
    with Served(store, "price").running() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def photos(browser: Browser, store: Storage) -> Iterator[Served]:
    """Images that are no drawings."""
    served.register(store, "photos", small_models.picture_features())
    with Served(store, "photos").running() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def guarded(table: Served, store: Storage) -> Iterator[tuple[Served, str]]:
    """The table's model for holders of a token, and such a token."""
    token = TokenStore(store, "table").create("ada", ("read",))
    with Served(store, "table", auth="token").running() as endpoint:
        yield endpoint, token


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    content = gzip.decompress(path.read_bytes())
    num_axes = content[3]
    shape = np.frombuffer(content, ">u4", num_axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape).copy()
