"""What a network of a user's own is refused for when it is built."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from signatures import TABLE, make_rows
from torch import Tensor, nn

from raydc import models
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.models import user_models
from raydc.spec.model import Builder


class Ends(nn.Module):
    """A linear layer with something behind it."""

    def __init__(self, signature: Signature, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(signature.shape[0], signature.num_outputs)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.layer(x))


class Remembers(nn.Module):
    """Keeps the mean of the first rows that it sees."""

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        self.layer = nn.Linear(signature.shape[0], signature.num_outputs)
        self.register_buffer("mean", torch.zeros(signature.shape[0]))
        self.register_buffer("is_set", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_set:
            self.mean.copy_(x.detach().mean(0))
            self.is_set.fill_(1.0)
        return self.layer(x - self.mean)


def build(make: Callable[[Signature], nn.Module], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Builds with a function in the place of an imported one."""
    monkeypatch.setattr(user_models, "import_builder", lambda _: make)
    return models.build(Builder(builder="own:make"), TABLE, 0)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda y: y.squeeze(), r"gives \(2,\) for 1 row, expected \(1, 2\)"),
        (lambda y: y.sum(0, keepdim=True), r"gives \(1, 2\) for 2 rows, expected \(2, 2\)"),
        (lambda y: y if len(y) < 3 else y[:-1], r"gives \(2, 2\) for 3 rows, expected \(3, 2\)"),
        (lambda y: (y, y), r"fails on float32 inputs of \(1, 5\): AttributeError: 'tuple'"),
        (lambda y: next(iter(())), r"fails on float32 inputs of \(1, 5\): StopIteration: "),
    ],
)
def test_network_is_tried_on_one_two_and_three_rows(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(SpecError, match=f"model.builder: own:make: its network {message}"):
        build(lambda signature: Ends(signature, end), monkeypatch)


def test_lazy_layer_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"body\.0\.weight has no shape before the first pass"):
        build(lambda signature: nn.Sequential(nn.LazyLinear(2)), monkeypatch)

    def filled(signature: Signature) -> nn.Module:
        layer = nn.Sequential(nn.LazyLinear(2))
        layer(torch.zeros(1, *signature.shape))
        return layer

    assert build(filled, monkeypatch)(make_rows(TABLE)).shape == (3, 2)


def test_check_leaves_no_trace_in_the_network_or_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def draws(y: Tensor) -> Tensor:
        return y + torch.rand(1) + random.random() + float(np.random.rand())

    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())  # type: ignore[union-attr]
    build(lambda signature: Ends(signature, draws), monkeypatch)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # type: ignore[arg-type]
    network = build(Remembers, monkeypatch)
    assert network.state_dict()["body.is_set"] == 0.0
    rows = make_rows(TABLE)
    network(rows)
    assert torch.equal(network.state_dict()["body.mean"], rows.mean(0))


def test_network_that_cannot_be_copied_is_tried_on_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Uncopied(Ends):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise RuntimeError("no copies")

    with pytest.raises(RuntimeError, match="no copies"):
        copy.deepcopy(Uncopied(TABLE, torch.relu))
    built = build(lambda signature: Uncopied(signature, torch.relu), monkeypatch)
    assert built(make_rows(TABLE)).shape == (3, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "def make(signature):\n    raise KeyError('depth')",
            "users:make: raises: KeyError: 'depth'",
        ),
        ("def make(signature):\n    return 1 + 'a'", "users:make: raises: TypeError: unsupported"),
        ("def make(other, width):\n    pass", "model.arguments: users:make does not take them"),
        ("def make(:\n", "cannot import users: SyntaxError: "),
        ("1 / 0", "cannot import users: ZeroDivisionError: division by zero"),
    ],
)
def test_builder_that_raises_is_one_problem_of_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    name = f"users_{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        models.build(Builder(builder=f"{name}:make"), TABLE, 0)
    assert message in str(caught.value).replace(name, "users")
