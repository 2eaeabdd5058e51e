"""Networks of records: what a run says of them, and what their parts do."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
import torch
from records import record_features
from training import training_spec

from raydc import models
from raydc.errors import SpecError
from raydc.features import Field, Signature
from raydc.models import description
from raydc.models.record_networks import FactorisationMachine, embedding_width
from raydc.spec.data import Data


def test_a_network_of_records_is_described() -> None:
    spec = training_spec("store")
    network = models.build(spec.model, record_features().signature, 0)
    data = Data(source="rows.csv", features={"scale": "min_max"})  # type: ignore[arg-type]
    assert not any("normalisation" in line for line in _lines(spec, network, data))


def _lines(spec: object, network: models.Network, data: Data) -> list[str]:
    return description.describe(spec.model, network, data)  # type: ignore[attr-defined]


def test_embeddings_grow_slower_than_their_codes() -> None:
    assert [embedding_width(n) for n in (1, 2, 10, 1000, 10**9)] == [2, 2, 6, 77, 600]


def _machine(outputs: int = 1) -> tuple[FactorisationMachine, dict[str, torch.Tensor]]:
    fields = {
        "columns": Field("array", "float32", (2,)),
        "user": Field("array", "uint8", num_codes=5),
        "film": Field("array", "uint8", num_codes=4),
        "time": Field("array", "uint8", num_codes=3),
    }
    classes = tuple("abcdef"[:outputs]) if outputs > 1 else ()
    task: Literal["classification", "regression"] = "classification" if classes else "regression"
    signature = Signature("record", (), "", (), (), task, classes, fields)
    inputs = {
        "columns": torch.tensor([[0.5, -1.0], [2.0, 0.0]]),
        "user": torch.tensor([0, 3]),
        "film": torch.tensor([2, 1]),
        "time": torch.tensor([1, 0]),
    }
    return FactorisationMachine(signature, 7, 0.0), inputs


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_factorisation_machine_is_the_sum_over_all_pairs(outputs: int) -> None:
    machine, inputs = _machine(outputs)
    found = machine(inputs)
    vectors = [
        embedding(inputs[name])
        for name, embedding in zip(("user", "film", "time"), machine.vectors, strict=True)
    ]
    pairs = sum(a * b for a, b in itertools.combinations(vectors, 2))
    expected = machine.linear(machine.biases(inputs)) + machine.products(pairs)
    assert found.shape == (2, outputs)
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_code_that_training_never_saw_has_no_products() -> None:
    machine, inputs = _machine()
    inputs["user"] = torch.tensor([4, 4])
    inputs["film"] = torch.tensor([3, 3])
    assert torch.equal(machine(inputs), machine.linear(machine.biases(inputs)))


def test_factorisation_of_one_column_is_refused() -> None:
    section = training_spec("store", model={"name": "factorisation"}).model
    one = {"city": record_features().signature.fields["city"]}
    with pytest.raises(SpecError, match="only city is one"):
        models.build(section, record_features(one).signature, 0)
