"""A row has the same outputs, bit for bit, in every batch that it may be in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import exact_models
import numpy as np
import pytest
import small_models
import torch
from torch import Tensor, nn

from raydc import bundle, models
from raydc.bundle.padding import Array, Padding, find_padding, store_by_input
from raydc.features import Signature
from raydc.storage import Storage

TABLE = Signature("vector", (30,), "float32", (), (), "classification", ("a", "b", "c"))
PRICE = Signature("vector", (7,), "float32", (), (), "regression")
PICTURE = Signature("image", (1, 8, 8), "uint8", (100.0,), (60.0,), "classification", ("a", "b"))
CNN = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 16, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(16 * 16, 32),
    nn.ReLU(),
    nn.Linear(32, 2),
)


def built(signature: Signature, **section: object) -> nn.Module:
    spec = small_models.small_spec("store", model=dict(section))
    return models.build(spec.model, signature, 0)


NETWORKS: dict[str, tuple[Signature, Callable[[], nn.Module]]] = {
    "table": (TABLE, lambda: built(TABLE, name="mlp", hidden=[64, 32])),
    "price": (PRICE, lambda: built(PRICE, name="mlp", hidden=[16])),
    "convolutions": (PICTURE, lambda: CNN),
    "residual": (PICTURE, lambda: exact_models.residual(PICTURE)),
    "transformer": (PICTURE, lambda: exact_models.transformer(PICTURE)),
}


def runs(network: nn.Module) -> Callable[[Array], Array]:
    def run(x: Array) -> Array:
        with torch.inference_mode():
            outputs: Array = network(torch.from_numpy(x)).numpy()
        return outputs

    return run


def inputs(signature: Signature, num_rows: int, seed: int = 0) -> Array:
    choose = np.random.default_rng(seed)
    return choose.standard_normal((num_rows, *signature.shape), dtype=np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_in_random_batches_have_the_bits_that_they_have_alone(name: str) -> None:
    signature, build = NETWORKS[name]
    network = build().eval()
    store_by_input(network)
    run, max_rows = runs(network), 16 if signature.kind == "vector" else 4
    padding = find_padding(run, inputs(signature, 16), max_rows, budget_s=0.1)
    assert padding.is_independent
    # A busy machine, on which no time is left, finds the same least size.
    hurried = find_padding(run, inputs(signature, 16), max_rows, budget_s=0.0)
    assert hurried.multiple == padding.multiple
    assert set(hurried.sizes) <= set(padding.sizes)
    num_rows = max_rows
    rows = inputs(signature, num_rows, seed=1)
    alone = [run(padding.pad(rows[i : i + 1]))[0].tobytes() for i in range(num_rows)]
    choose = np.random.default_rng(2)
    for _ in range(6):
        chosen = choose.integers(num_rows, size=choose.integers(1, padding.max_rows + 1))
        outputs = run(padding.pad(rows[chosen]))
        for position, row in enumerate(chosen):
            assert outputs[position].tobytes() == alone[row], (len(chosen), position)


def rounds_by(multiple: int, most: int = 1000) -> Callable[[Array], Array]:
    """A network whose bits depend on the rows of a batch, unless they are a multiple."""

    def run(x: Array) -> Array:
        if len(x) % multiple == 0 and len(x) <= most:
            return x * 3
        return x * 3 + len(x) * 1e-3

    return run


@pytest.mark.parametrize(
    ("run", "sizes"),
    [
        (rounds_by(1), tuple(range(1, 13))),
        (rounds_by(2), (2, 4, 6, 8, 10, 12)),
        (rounds_by(3), (8,)),  # No power of two: always the same size.
        (rounds_by(4), (4, 8, 12)),
        (rounds_by(4, most=8), (4, 8)),  # A size beyond those that decide is left out.
        (rounds_by(12), (8,)),
        (lambda x: x - x.mean(axis=0), (1,)),  # Depends on its neighbours in each size.
    ],
)
def test_search_finds_the_smallest_multiple(
    run: Callable[[Array], Array], sizes: tuple[int, ...]
) -> None:
    assert find_padding(run, inputs(TABLE, 16), 12, budget_s=60.0) == Padding(sizes)


def test_search_without_time_keeps_to_the_sizes_that_it_tried() -> None:
    found = find_padding(rounds_by(2), inputs(TABLE, 16), 64, budget_s=0.0)
    assert found.sizes == (2, 4, 8, 16)


def test_search_that_takes_too_long_warns_and_computes_rows_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = 0.0

    def slow(x: Array) -> Array:
        nonlocal now_s
        now_s += 25.0
        return x

    monkeypatch.setattr("raydc.bundle.padding.time.monotonic", lambda: now_s)
    with caplog.at_level("WARNING", logger="ray.serve"):
        assert find_padding(slow, inputs(TABLE, 16), 64) == Padding((1,))
    assert "within 60 s" in caplog.text


def test_search_takes_other_sizes_than_those_that_raise() -> None:
    def not_one(x: Array) -> Array:
        if not 2 <= len(x) <= 16:
            raise RuntimeError("out of memory")
        return x

    assert find_padding(not_one, inputs(TABLE, 16), 64).sizes == (2, 4, 8, 16)


def test_network_that_changes_from_pass_to_pass_is_named() -> None:
    choose = np.random.default_rng(0)
    found = find_padding(lambda x: x + choose.random(x.shape), inputs(TABLE, 16), 8)
    assert found == Padding((1,), is_independent=False)
    assert "change from pass to pass" in str(found)


def test_rows_that_fill_a_batch_are_copies_of_one_that_is_in_it() -> None:
    padded = Padding((4, 8)).pad(np.array([[1.0], [2.0], [3.0]]))
    assert padded.tolist() == [[1.0], [2.0], [3.0], [3.0]]
    full = np.ones((4, 1))
    assert Padding((4, 8)).pad(full) is full


def test_weights_stored_by_input_keep_values_and_names() -> None:
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    store_by_input(network)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


class _Scattered(nn.Module):
    """Shifts each row by the mean of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x - x.mean(0))
        return outputs


def test_forward_of_a_bundle_is_the_same_in_any_batch(tmp_path: Path) -> None:
    features = small_models.table_features()
    folder = Storage(str(tmp_path / "bundle"))
    small_models.write_bundle(folder, features)
    trained = bundle.load(folder)
    trained.check_golden()
    x = features.apply(features.from_json_rows(small_models.table_rows(200)))
    for loaded in (trained, replace(trained, model=_Scattered().eval())):
        alone = np.concatenate([loaded.forward(x[i : i + 1]) for i in range(len(x))])
        for num_rows in (2, 3, 5, 64, 65, 200):
            found = loaded.forward(x[:num_rows])
            assert found.tobytes() == alone[:num_rows].tobytes(), num_rows
            values = features.values(found)
            each = [features.values(alone[i : i + 1]) for i in range(num_rows)]
            assert values.tobytes() == np.concatenate(each).tobytes()
    assert loaded.forward(x[:0]).shape == (0, 3)
    card = folder.read_bytes("card.md").decode()
    assert f"- Answer: {trained.padding}" in card
