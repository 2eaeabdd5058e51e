"""The proof, before a run begins, that the state of a user's network survives a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import spec_of
from torch import Tensor, nn
from training import training_spec, write_line, write_pictures

from raydc.data import prepared
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.loop.state_proof import prove_state
from raydc.models import user_models
from raydc.storage import Storage


class Base(nn.Module):
    """A linear layer, and a hook for what goes wrong."""

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        self.layer = nn.Linear(signature.shape[0], signature.num_outputs)

    def touch(self, x: Tensor) -> None:
        """Changes what a subclass keeps."""

    def forward(self, x: Tensor) -> Tensor:
        self.touch(x)
        return self.layer(x)


class Growing(Base):
    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.register_buffer("seen", torch.zeros(0))

    def touch(self, x: Tensor) -> None:
        if self.training:
            self.seen = torch.cat([self.seen, x[:1, 0].detach()])


class Late(Base):
    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.register_buffer("mean", None)

    def touch(self, x: Tensor) -> None:
        if self.mean is None:
            self.mean = x.mean(0).detach()


class Widened(Base):
    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.register_buffer("total", torch.zeros(()))

    def touch(self, x: Tensor) -> None:
        self.total = self.total + x.detach().double().sum()


class Extra(Base):
    """Keeps a count as extra state."""

    as_tensor = False

    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.count = 0

    def get_extra_state(self) -> Any:
        return torch.tensor(self.count) if self.as_tensor else {"count": self.count}

    def set_extra_state(self, state: Any) -> None:
        self.count = int(state) if self.as_tensor else state["count"]

    def touch(self, x: Tensor) -> None:
        self.count += self.training


class ExtraTensor(Extra):
    as_tensor = True


class Attached(Base):
    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.register_buffer("last", torch.zeros(()))

    def touch(self, x: Tensor) -> None:
        self.last = self.layer(x).mean()


class Complex(Base):
    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.phase = nn.Parameter(torch.zeros(1, dtype=torch.complex64))


class Sparse(Base):
    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.table = nn.Embedding(4, 1, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.table(torch.zeros(len(x), dtype=torch.int64))


class Frozen(Base):
    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.requires_grad_(False)


class Detached(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).detach()


class TooWideInTraining(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return torch.cat([y, y], 1) if self.training else y


class FailsBackward(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient.view(-1, 7))
        return y


class Centred(Base):
    """Subtracts the mean of the batch, in evaluation mode as well."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0))


class Tied(Base):
    """Shares a weight between two layers, and a buffer between two names."""

    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.inner, self.again = nn.Linear(2, 2), nn.Linear(2, 2)
        self.again.weight = self.inner.weight
        whole = torch.zeros(3)
        self.register_buffer("left", whole[:2])
        self.register_buffer("right", whole[1:])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.again(self.inner(x))) + self.left.sum()


class Counting(Base):
    """Puts a new tensor in the place of a buffer, in each pass."""

    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count = self.count + 1
        return self.layer(self.norm(x)) / (1 + self.count)


class Frequent(Base):
    """Every further call of the builder gives one parameter more."""

    calls = 0

    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        Frequent.calls += 1
        for number in range(Frequent.calls):
            self.register_parameter(f"p{number}", nn.Parameter(torch.zeros(1)))


REFUSED: list[tuple[Callable[[Signature], nn.Module], str]] = [
    (Growing, r"body\.seen changes its shape from \(0,\) to \(1,\): its checkpoints could not be"),
    (Late, r"body\.mean appears in the first pass: its checkpoints could not be loaded"),
    (Widened, r"body\.total changes its type from torch.float32 to torch.float64"),
    (Extra, r"body\._extra_state is a dict, and a checkpoint holds tensors only"),
    (ExtraTensor, r"body\._extra_state changes in a pass and is not a buffer"),
    (Attached, r"body\.last keeps the graph of a pass"),
    (Complex, r"body\.phase is of torch.complex64, which a checkpoint cannot hold"),
    (Sparse, r"a training step on 4 row\(s\) fails: RuntimeError: .*sparse"),
    (Frozen, "the network has no parameter to train"),
    (Detached, "the outputs of the network do not depend on its parameters"),
    (TooWideInTraining, r"its network gives \(2, 2\) for 2 rows, expected \(2, 1\)"),
    (FailsBackward, r"a training step on 4 row\(s\) fails: RuntimeError"),
    (Centred, "the outputs of a row differ by .* between a batch of one and of 4 rows"),
    (Frequent, r"body\.p\d differs when the builder is called again"),
]


@pytest.fixture
def data(tmp_path: Path) -> prepared.Prepared:
    return prepared.load(write_line(Storage(str(tmp_path / "data"))))


def prove(
    make: Callable[[Signature], nn.Module],
    data: prepared.Prepared,
    monkeypatch: pytest.MonkeyPatch,
    **train: Any,
) -> None:
    monkeypatch.setattr(user_models, "import_builder", lambda _: make)
    spec = training_spec(
        "x",
        data={"task": "regression"},
        model={"builder": "own:make"},
        train={"logical_shards": 2, **train},
    )
    prove_state(spec, data)


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=lambda v: getattr(v, "__name__", ""))
def test_state_that_would_not_survive_is_refused_by_its_name(
    data: prepared.Prepared,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Signature], nn.Module],
    message: str,
) -> None:
    with pytest.raises(SpecError, match=f"model.builder: own:make: {message}"):
        prove(make, data, monkeypatch)


@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize("make", [Base, Tied, Counting])
def test_state_that_survives_is_accepted_and_no_random_number_is_used(
    data: prepared.Prepared,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Signature], nn.Module],
    num_shards: int,
) -> None:
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())  # type: ignore[union-attr]
    prove(make, data, monkeypatch, logical_shards=num_shards)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("good", None),
        ("forgetting", "computes different outputs once its state was saved and loaded"),
        ("unrestored", "2.gain is not what was saved once it is loaded"),
        ("random", "computes different outputs .* in training mode"),
        ("numpy", "computes different outputs .* in training mode"),
        ("builder", r"body\.1\.bias differs when the builder is called again"),
    ],
)
def test_networks_with_hidden_state_are_refused_before_the_run(
    tmp_path: Path, kind: str, message: str | None
) -> None:
    images = prepared.load(write_pictures(Storage(str(tmp_path / "images"))))
    spec = spec_of(tmp_path, kind)
    if message is None:
        prove_state(spec, images)
        return
    with pytest.raises(SpecError, match=message):
        prove_state(spec, images)


def test_noise_of_other_generators_is_allowed_without_exact(tmp_path: Path) -> None:
    images = prepared.load(write_pictures(Storage(str(tmp_path / "images"))))
    prove_state(spec_of(tmp_path, "numpy", train={"exact": False}), images)
