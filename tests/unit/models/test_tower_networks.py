"""Two towers: which columns are in which, what they compute, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from records import FIELDS, make_rows, record_features
from training import training_spec

from raydc import models
from raydc.bundle import Bundle
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.models.row_tensors import network_inputs, to_tensors
from raydc.spec.model import TwoTowers

USER, ITEM = ["city", "height", "words"], ["color", "series", "photo"]
SIGNATURE = record_features().signature
REGRESSION = replace(SIGNATURE, task="regression", classes=())


def build(signature: Signature = SIGNATURE, **fields: Any) -> models.Network:
    section = TwoTowers(name="two_towers", **{"user": USER, "item": ITEM, "width": 8, **fields})
    return models.build(section, signature, 0).eval()


def inputs_of(count: int = 6) -> dict[str, torch.Tensor]:
    rows, _ = make_rows(count, 3, is_stored=False)
    found = network_inputs(to_tensors(rows))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_score_is_the_product_of_the_vectors_and_the_biases(similarity: str) -> None:
    network, inputs = build(REGRESSION, similarity=similarity, hidden=[5]), inputs_of()
    body, fields = network.body, network.input(inputs)
    (user, user_bias), (item, item_bias) = body.user(fields), body.item(fields)
    assert user.shape == item.shape == (6, 8)
    if similarity == "cosine":
        user, item = (one / one.norm(dim=1, keepdim=True) for one in (user, item))
    expected = body.scale * (user * item).sum(1) + user_bias + item_bias + body.bias
    assert torch.allclose(network(inputs)[:, 0], expected, atol=1e-6)
    # Of two classes it is what the second has more than the first.
    two = build(similarity=similarity, hidden=[5])
    two.load_state_dict(network.state_dict())
    assert torch.allclose(two(inputs)[:, 1], expected, atol=1e-6)
    assert (two(inputs)[:, 0] == 0).all()


def test_without_hidden_layers_dropout_drops_terms_of_the_product() -> None:
    network, inputs = build(REGRESSION, dropout=0.5, width=1).train(), inputs_of(20)
    torch.manual_seed(0)
    body, fields = network.body, network.input(inputs)
    (user, user_bias), (item, item_bias) = body.user(fields), body.item(fields)
    biases = user_bias + item_bias + body.bias
    terms = (network(inputs)[:, 0] - biases) / (body.scale * (user * item).sum(1))
    # A vector of one number has one term: it is left out, or doubled so that the mean stays.
    assert {round(float(term), 2) for term in terms.detach()} == {0.0, 2.0}
    assert build(REGRESSION, dropout=0.5, hidden=[4]).body.dropout.p == 0.0


@pytest.mark.parametrize(
    ("changed", "side"),
    [
        ("city", "user"),
        ("words", "user"),
        ("photo", "item"),
        ("series", "item"),
        (0, "user"),
        (1, "item"),
        (3, "item"),
    ],
)
def test_a_column_reaches_its_own_tower_and_no_other(changed: str | int, side: str) -> None:
    network, inputs = build(), inputs_of()
    fields = network.input(inputs)
    before = {name: getattr(network.body, name)(fields)[0] for name in ("user", "item")}
    if isinstance(changed, int):
        # The number `height`, or an input of the category `color`.
        inputs["columns"][:, changed] += 1.0
    else:
        inputs[changed] = inputs[changed].flip(0)
        length = f"{changed}.length"
        inputs |= {length: inputs[length].flip(0)} if length in inputs else {}
    fields = network.input(inputs)
    after = {name: getattr(network.body, name)(fields)[0] for name in ("user", "item")}
    other = "item" if side == "user" else "user"
    assert not torch.allclose(before[side], after[side])
    assert torch.equal(before[other], after[other])


def test_an_answer_depends_on_its_own_row_only() -> None:
    section = TwoTowers(name="two_towers", user=USER, item=ITEM, hidden=[8])
    network = models.build(section, SIGNATURE, 0).eval()
    bundle = Bundle(
        network, record_features(), training_spec("store"), {}, {"rows": []}, "", max_rows=16
    )
    rows, _ = make_rows(20, 5, is_stored=False)
    alone = np.concatenate([bundle.forward(rows[row : row + 1]) for row in range(20)])
    assert bundle.forward(rows).tobytes() == alone.tobytes()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user": ["town"]}, "model.user: no column 'town'"),
        ({"user": ["citi"]}, "did you mean city?"),
        ({"item": ["color"]}, "series, photo is in neither tower"),
    ],
)
def test_columns_that_are_not_those_of_the_rows_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        build(**fields)
    assert message in str(caught.value)


def test_a_column_in_both_towers_is_refused() -> None:
    with pytest.raises(ValueError, match="'city' twice; a column is in one tower"):
        TwoTowers(name="two_towers", user=["city"], item=["city", "color"])


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (
            Signature("vector", (3,), "float32", (), (), "regression"),
            "needs a column that is a field of its own",
        ),
        (replace(SIGNATURE, classes=("a", "b", "c")), "not 3 outputs"),
        (replace(SIGNATURE, task="multilabel"), "not 2 labels"),
        (
            replace(
                SIGNATURE,
                fields={**FIELDS, "columns": replace(FIELDS["columns"], columns=(), widths=())},
            ),
            "is from an older raydc",
        ),
    ],
)
def test_rows_and_targets_that_towers_do_not_take_are_refused(
    signature: Signature, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        build(signature)
    assert message in str(caught.value)


def test_names_of_columns_are_kept_and_not_compared() -> None:
    again = Signature.from_dict(SIGNATURE.to_dict())
    assert again.fields["columns"].columns == ("height", "color")
    assert again.fields["columns"].widths == (1, 3)
    older = replace(FIELDS["columns"], columns=(), widths=())
    assert replace(SIGNATURE, fields={**FIELDS, "columns": older}) == SIGNATURE
    assert "columns" not in older.to_dict()
