"""Networks that read lists: padding never counts, and they compute what torch's own layers do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from records import FIELDS, make_rows, record_features
from torch import nn

from raydc import bundle, models
from raydc import spec as specs
from raydc.errors import SpecError
from raydc.features import Field, Ragged, Record, Signature
from raydc.features.record import LENGTH
from raydc.models.network_parts import Network
from raydc.models.row_tensors import network_inputs, to_tensors
from raydc.spec.model import Recurrent, Transformer
from raydc.storage import Storage

SIGNATURE = record_features().signature
MODELS: list[Any] = [
    Recurrent(name="lstm", width=6, depth=2),
    Recurrent(name="gru", width=6, bidirectional=False),
    Transformer(name="transformer", width=8, heads=2),
    Transformer(name="transformer", width=8, heads=2, positions="sinusoidal"),
]
NAMES = ["lstm", "gru", "learned", "sinusoidal"]
# Only tokens, so that a reader can be compared alone.
TOKENS = Signature(
    "record", (), "", (), (), "classification", ("a", "b"), {"words": FIELDS["words"]}
)


def _network(model: Any, signature: Signature = SIGNATURE) -> Network:
    return models.build(model, signature, 1).eval()


def _rows(count: int = 12) -> dict[str, Any]:
    inputs = network_inputs(to_tensors(make_rows(count, 3, is_stored=False)[0]))
    assert isinstance(inputs, dict)
    return inputs


def _fill_padding(inputs: dict[str, Any], extra: int) -> dict[str, Any]:
    """The same rows with other values in the padding, and with more of it."""
    changed = dict(inputs)
    for name, lengths_B in inputs.items():
        if name.endswith(LENGTH):
            items = inputs[name.removesuffix(LENGTH)]
            longer = torch.ones((items.shape[0], items.shape[1] + extra, *items.shape[2:])) * 7
            longer = longer.to(items.dtype)
            for row, length in enumerate(lengths_B.tolist()):
                longer[row, :length] = items[row, :length]
            changed[name.removesuffix(LENGTH)] = longer
    return changed


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_fields_of_every_kind_give_one_output_per_class(model: Any) -> None:
    inputs = _rows()
    assert 0 in inputs["words" + LENGTH].tolist() + inputs["series" + LENGTH].tolist()
    first, again, other = (models.build(model, SIGNATURE, seed).eval() for seed in (1, 1, 2))
    outputs_BK = first(inputs)
    assert outputs_BK.shape == (12, 2)
    assert bool(outputs_BK.isfinite().all())
    assert torch.equal(outputs_BK, again(inputs))
    assert not torch.equal(outputs_BK, other(inputs))


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_what_stands_in_the_padding_changes_no_bit(model: Any) -> None:
    network, inputs = _network(model), _rows()
    assert torch.equal(network(inputs), network(_fill_padding(inputs, 0)))


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_more_padding_changes_nothing_that_counts(model: Any) -> None:
    network, inputs = _network(model), _rows()
    longer = network(_fill_padding(inputs, 9))
    torch.testing.assert_close(longer, network(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
@pytest.mark.parametrize("field", ["columns", "city", "words", "series", "photo"])
def test_every_field_has_an_influence(model: Any, field: str) -> None:
    network, inputs = _network(model), _rows()
    changed = inputs[field].flip(0)
    if field + LENGTH in inputs:
        changed = torch.where(inputs[field] > 0, inputs[field] - 1, inputs[field] + 1)
    assert not torch.equal(network(inputs), network({**inputs, field: changed}))


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_the_order_of_tokens_has_an_influence(model: Any) -> None:
    network = _network(model, TOKENS)
    words = torch.tensor([[3, 9, 4, 1], [9, 3, 4, 1]])
    first, second = network({"words": words, "words" + LENGTH: torch.tensor([3, 3])})
    assert not torch.allclose(first, second, rtol=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_cells_compute_what_packed_layers_of_torch_do(name: Any, kind: Any) -> None:
    network = _network(Recurrent(name=name, width=5, depth=2), TOKENS)
    reader: Any = network.body.readers[0]
    reference = kind(5, 5, 2, batch_first=True, bidirectional=True).eval()
    for depth, layer in enumerate(reader.layers):
        for direction, suffix in zip(layer, ("", "_reverse"), strict=True):
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                target = getattr(reference, f"{part}_l{depth}{suffix}")
                target.data = getattr(direction.cell, part).data
    words, lengths_B = torch.randint(0, 40, (6, 8)), torch.tensor([8, 1, 3, 5, 2, 7])
    packed = nn.utils.rnn.pack_padded_sequence(
        reader.items(words), lengths_B, batch_first=True, enforce_sorted=False
    )
    last = reference(packed)[1]
    last = last[0] if name == "lstm" else last
    expected = torch.cat([last[-2], last[-1]], dim=1)
    torch.testing.assert_close(reader(words, lengths_B), expected)


def test_encoder_layers_compute_what_those_of_torch_do() -> None:
    model = Transformer(name="transformer", width=8, heads=2, depth=1)
    reader: Any = _network(model, TOKENS).body.readers[0]
    layer = reader.layers[0]
    reference = nn.TransformerEncoderLayer(
        8, 2, 32, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    attention = reference.self_attn
    attention.in_proj_weight.data = layer.projection.weight.data
    attention.in_proj_bias.data = layer.projection.bias.data
    for ours, theirs in (
        (layer.output, attention.out_proj),
        (layer.norm_attention, reference.norm1),
        (layer.norm_forward, reference.norm2),
        (layer.feed_forward[0], reference.linear1),
        (layer.feed_forward[3], reference.linear2),
    ):
        theirs.load_state_dict(ours.state_dict())
    x_BLD, lengths_B = torch.randn(4, 8, 8), torch.tensor([8, 3, 1, 5])
    is_real_BL = torch.arange(8) < lengths_B[:, None]
    expected = reference(x_BLD, src_key_padding_mask=~is_real_BL)
    torch.testing.assert_close(
        layer(x_BLD, is_real_BL)[is_real_BL], expected[is_real_BL], rtol=1e-4, atol=1e-5
    )


def test_rows_without_lists_are_refused() -> None:
    fields = {"city": FIELDS["city"]}
    signature = Signature("record", (), "", (), (), "classification", ("a", "b"), fields)
    vector = Signature("vector", (3,), "float32", (), (), "classification", ("a", "b"))
    for rows in (signature, vector):
        with pytest.raises(SpecError, match="lstm reads texts and series, but the rows have none"):
            models.build(MODELS[0], rows, 0)


def test_frozen_body_trains_the_last_layer_only() -> None:
    frozen = MODELS[0].model_copy(update={"freeze": ["body"]})
    network = models.build(frozen, SIGNATURE, 0)
    trained = [name for name, one in network.named_parameters() if one.requires_grad]
    assert trained == ["body.head.weight", "body.head.bias"]


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_a_row_has_the_bits_alone_that_it_has_among_others(tmp_path: Any, model: Any) -> None:
    rows, _ = make_rows(40, 5, is_stored=False)
    loaded = _bundle(Storage(str(tmp_path / "bundle")), model)
    together = loaded.forward(rows)
    alone = np.concatenate([loaded.forward(rows[row : row + 1]) for row in range(40)])
    assert together.tobytes() == alone.tobytes()
    backwards = loaded.forward(rows[np.arange(39, -1, -1)])
    assert backwards[::-1].tobytes() == together.tobytes()


def _bundle(folder: Storage, model: Any) -> bundle.Bundle:
    features = record_features()
    value = {
        "name": "lists",
        "storage": str(folder.local_path.parent),
        "data": {"source": "rows.csv", "target": "answer"},
        "model": model.model_dump(exclude_none=True),
    }
    spec = specs.resolve(specs.from_dict(value))
    weights = models.build(spec.model, features.signature, 1).state_dict()
    bundle.write(folder, spec, features, weights, [], {"run": "lists", "seed": 0, "metrics": {}})
    return bundle.load(folder)


def test_lists_of_numbers_without_a_shape_are_read() -> None:
    field = Field("list", "float32", (), max_length=9)
    signature = Signature("record", (), "", (), (), "regression", (), {"heart": field})
    lists = Ragged.of_lists([np.ones(3, np.float32), np.ones(7, np.float32)], np.empty(0, "f4"))
    inputs = network_inputs(to_tensors(Record({"heart": lists})))
    for model in MODELS:
        assert _network(model, signature)(inputs).shape == (2, 1)
