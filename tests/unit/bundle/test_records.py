"""Bundles of rows of named fields: an answer depends on its own row only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from records import FIELDS, make_rows, record_features
from training import training_spec

from raydc import models
from raydc.bundle import Bundle, golden
from raydc.bundle.optimize import optimize
from raydc.errors import CheckpointError
from raydc.features import Ragged, Record
from raydc.features.record import bucket_keys, bucket_length, expanded


def _bundle(max_rows: int = 16) -> Bundle:
    features, spec = record_features(), training_spec("store")
    network = models.build(spec.model, features.signature, 0).eval()
    return Bundle(network, features, spec, {}, {"rows": []}, "", max_rows=max_rows)


def test_a_row_has_the_same_outputs_alone_and_among_others() -> None:
    bundle, (rows, _) = _bundle(), make_rows(40, 5, is_stored=False)
    keys = bucket_keys(rows)
    assert keys is not None
    assert len(np.unique(keys, axis=0)) > 10
    together = bundle.forward(rows)
    alone = np.concatenate([bundle.forward(rows[row : row + 1]) for row in range(40)])
    backwards = bundle.forward(rows[np.arange(40)[::-1]])[::-1]
    assert together.tobytes() == alone.tobytes()
    assert together.tobytes() == np.ascontiguousarray(backwards).tobytes()


def test_stored_columns_answer_as_given_ones_do() -> None:
    bundle = _bundle()
    stored, _ = make_rows(9, 5)
    given, _ = make_rows(9, 5, is_stored=False)
    assert bundle.forward(stored).tobytes() == bundle.forward(given).tobytes()


def test_no_rows_have_no_outputs() -> None:
    rows, _ = make_rows(3, 0, is_stored=False)
    assert _bundle().forward(rows[:0]).shape == (0, 2)


def test_padding_is_not_part_of_a_mean() -> None:
    bundle, (rows, _) = _bundle(), make_rows(1, 2, is_stored=False)
    first, vector = bundle.model.input, bundle.model.body[0]  # type: ignore[index]
    short, long = (vector(first(_tensors(rows, length))) for length in (32, 48))  # type: ignore[operator]
    assert torch.allclose(short, long, atol=1e-6)


def _tensors(rows: Record, length: int) -> dict[str, torch.Tensor]:
    """Tensors of one row whose lists are padded to a length, with numbers that must not count."""
    found: dict[str, torch.Tensor] = {}
    for name in FIELDS:
        values = rows.fields[name]
        if isinstance(values, Ragged):
            padded = values.padded(length)
            padded[:, int(values.lengths[0]) :] = 7
            found[name] = torch.from_numpy(padded)
            found[f"{name}.length"] = torch.from_numpy(values.lengths)
        else:
            found[name] = torch.from_numpy(values)
    return found


def test_sizes_are_those_of_the_longest_lists_and_found_for_every_length_of_one_list() -> None:
    bundle = _bundle()
    words, series = FIELDS["words"], FIELDS["series"]
    longest = (bucket_length(words.max_length), bucket_length(series.max_length))
    assert bundle.padding is bundle._padding_by_lengths[longest]
    # Two lists have too many combinations of lengths.
    bundle.find_sizes()
    assert set(bundle._padding_by_lengths._known) == {longest}
    features = record_features({"words": words})
    network = models.build(bundle.spec.model, features.signature, 0).eval()
    of_words = Bundle(network, features, bundle.spec, {}, {"rows": []}, "", max_rows=4)
    of_words.find_sizes()
    assert set(of_words._padding_by_lengths._known) == {(n,) for n in (4, 8, 12, 16, 24, 32)}


def test_golden_inputs_of_records_survive_json() -> None:
    rows, _ = make_rows(4, 3, is_stored=False)
    found = golden._from_json(golden._to_json(rows))
    assert isinstance(found, Record)
    golden._check_inputs(expanded(found), rows, record_features())


@pytest.mark.parametrize("field", list(FIELDS))
def test_another_golden_value_is_named_with_its_field(field: str) -> None:
    rows, _ = make_rows(4, 3, is_stored=False)
    others, _ = make_rows(4, 4, is_stored=False)
    changed = Record({**rows.fields, field: others.fields[field]})
    name = "height" if field == "columns" else field
    with pytest.raises(CheckpointError, match=rf"golden rows\[\d\]\.({name}|color)"):
        golden._check_inputs(changed, rows, record_features())


def test_a_network_of_fields_is_served_as_it_was_trained(caplog: pytest.LogCaptureFixture) -> None:
    bundle = _bundle()
    with caplog.at_level("WARNING", "ray.serve"):
        assert optimize(bundle) is bundle
    assert "only networks of rows that are one array are compiled" in caplog.text
