"""Decoders of texts: what a token may look at, and what a network starts with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from token_rows import END, LENGTH, MODEL, NUM_CODES, token_features
from torch import Tensor

from raydc import models
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.models.decoders import CausalDecoder, TokenLosses, find_documents
from raydc.models.network_parts import Network
from raydc.spec.sequence_models import Decoder

FORMS: list[dict[str, Any]] = [
    {},
    {"norm": "layer", "activation": "swiglu", "tied": False, "feed_forward": 24},
]


def build(length: int = LENGTH, **fields: Any) -> Network:
    section = Decoder(**{**MODEL, "dropout": 0.0, **fields})
    return models.build(section, token_features(length).signature, 0).eval()


def losses_of(network: Network, *rows: list[int]) -> Tensor:
    with torch.no_grad():
        return network({"text": torch.tensor(rows)})  # type: ignore[no-any-return]


def random_codes(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, END, (count,), generator=generator).tolist()


def test_documents_of_a_row() -> None:
    # The row goes on with a document, and then has two of two and one tokens.
    mask, positions = find_documents(torch.tensor([[5, 6, END, 7, END]]), END)
    assert positions.tolist() == [[0, 1, 0, 1, 0]]
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_first_loss_is_that_of_guessing(form: dict[str, Any]) -> None:
    rows = [random_codes(LENGTH + 1, seed) for seed in range(64)]
    found = float(losses_of(build(**form), *rows).mean())
    assert found == pytest.approx(math.log(NUM_CODES), rel=0.01)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_packed_documents_have_the_losses_that_they_have_alone(form: dict[str, Any]) -> None:
    network = build(**form)
    first, second = random_codes(5, 1), random_codes(4, 2)
    packed = losses_of(network, [END, *first, END, *second, END, END, END])[0]
    alone = losses_of(network, *([END, *one, *[END] * (12 - len(one))] for one in (first, second)))
    # The end of each is predicted as well.
    torch.testing.assert_close(packed[:6], alone[0, :6])
    torch.testing.assert_close(packed[6:11], alone[1, :5])


@pytest.mark.parametrize("between", [END, 3])
def test_a_copy_of_a_document_sees_nothing_of_the_first(between: int) -> None:
    """A random document and its copy: only without an end between does the copy depend on it."""
    network, document = build(), random_codes(5, 3)
    vectors: list[Tensor] = []
    decoder = network.body.decoder
    decoder.tokens.register_forward_hook(  # type: ignore[union-attr]
        lambda _, __, output: (output.retain_grad(), vectors.append(output))[0]
    )
    losses = network({"text": torch.tensor([[END, *document, between, *document, END]])})
    losses[0, 6:].sum().backward()
    assert vectors[0].grad is not None
    reached = vectors[0].grad[0].abs().sum(1) > 0
    assert reached[6:].all()
    assert bool(reached[:6].any()) == (between != END)


def test_no_token_sees_a_later_one() -> None:
    network, row = build(), [END, *random_codes(LENGTH, 4)]
    changed = [*row[:8], *random_codes(5, 5)]
    before, after = losses_of(network, row, changed)
    assert torch.equal(before[:7], after[:7])
    assert not torch.equal(before[7:], after[7:])


def test_losses_are_those_of_the_scores() -> None:
    network, row = build(), torch.tensor([[END, *random_codes(LENGTH, 6)]])
    with torch.no_grad():
        logits = network.body.decoder(row[:, :-1])  # type: ignore[operator, union-attr]
    expected = -logits.log_softmax(2).gather(2, row[:, 1:, None])[..., 0]
    torch.testing.assert_close(losses_of(network, row[0].tolist()), expected)


@pytest.mark.parametrize("is_tied", [True, False])
def test_tied_weights_are_stored_once(is_tied: bool) -> None:
    names = [
        name for name in build(tied=is_tied).state_dict() if "tokens" in name or "head" in name
    ]
    assert len(names) == (1 if is_tied else 2)


def test_dropout_is_for_training_only() -> None:
    network, row = build(dropout=0.5), {"text": torch.tensor([[END, *random_codes(LENGTH, 7)]])}
    assert torch.equal(network(row), network(row))
    network.train()
    assert not torch.equal(network(row), network(row))


def test_rotary_base_changes_what_positions_mean() -> None:
    row = [END, *random_codes(LENGTH, 8)]
    assert not torch.equal(losses_of(build(), row), losses_of(build(rotary_base=10.0), row))


def test_a_decoder_refuses_other_rows() -> None:
    signature = Signature("vector", (3,), "float32", (), (), "regression")
    with pytest.raises(SpecError, match="language_modelling"):
        models.build(Decoder(name="decoder"), signature, 0)


def test_the_network_is_plain_torch() -> None:
    """A loop of the user's own can hold the same layers."""
    decoder = CausalDecoder(Decoder(**MODEL), NUM_CODES, END, LENGTH)
    found = TokenLosses("text", decoder)({"text": torch.full((2, LENGTH + 1), END)})
    assert found.shape == (2, LENGTH)
