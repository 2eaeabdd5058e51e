"""Fusion: a part for each field, joined under one head, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from records import FIELDS, make_rows, record_features
from training import training_spec

from raydc import bundle, models
from raydc import spec as specs
from raydc.bundle import Bundle
from raydc.errors import SpecError
from raydc.features import Field, Image, Signature
from raydc.features.record import LENGTH
from raydc.models import section_check
from raydc.models.network_parts import Input
from raydc.models.row_tensors import network_inputs, to_tensors
from raydc.spec.model import Fusion
from raydc.storage import Storage

SIGNATURE = record_features().signature
CNN = {"name": "cnn", "channels": [4], "hidden": 8, "batch_norm": True}


def section(**fields: Any) -> Fusion:
    found = training_spec("store", model={"name": "fusion", **fields}).model
    assert isinstance(found, Fusion)
    return found


def build(signature: Signature = SIGNATURE, **fields: Any) -> models.Network:
    return models.build(section(**fields), signature, 0).eval()


def inputs_of(count: int = 6) -> dict[str, torch.Tensor]:
    found = network_inputs(to_tensors(make_rows(count, 3, is_stored=False)[0]))
    assert isinstance(found, dict)
    return found


def test_the_head_takes_what_each_part_gives() -> None:
    network, inputs = build(image=CNN, table=[16, 5], width=7, hidden=[9]), inputs_of()
    body, fields = network.body, network.input(inputs)
    parts = [body.images[0](inputs["photo"])]
    parts += [
        reader(fields[name], fields[name + LENGTH])
        for name, reader in zip(("words", "series"), body.readers, strict=True)
    ]
    parts.append(body.table(fields))
    # An image, two lists by a gru from both ends, and the last width of the table.
    assert [part.shape[1] for part in parts] == [7, 128, 128, 5]
    assert torch.allclose(network(inputs), body.head(torch.cat(parts, dim=1)), atol=1e-6)
    assert network(inputs).shape == (6, 2)


def test_the_part_of_images_is_the_network_of_its_name() -> None:
    network, inputs = build(image=CNN, width=7), inputs_of()
    image = network.body.images[0]
    assert isinstance(image.input, Input)
    outputs = tuple("abcdefg")
    photo = FIELDS["photo"]
    alone = Signature("image", photo.shape, "uint8", photo.mean, photo.scale, "multilabel", outputs)
    same = models.build(section(image=CNN).image, alone, 0).eval()  # type: ignore[arg-type]
    assert torch.equal(same(inputs["photo"]), image(inputs["photo"]))


def test_two_columns_of_images_have_networks_of_their_own() -> None:
    # Of the same form, so that nothing but the weights can differ.
    alike = {"a": FIELDS["photo"], "b": FIELDS["photo"]}
    first, second = build(replace(SIGNATURE, fields=alike), image=CNN).body.images
    pairs = list(zip(first.body.parameters(), second.body.parameters(), strict=True))
    assert [one.shape for one, _ in pairs] == [other.shape for _, other in pairs]
    assert not any(torch.equal(one, other) for one, other in pairs if one.ndim > 1)
    larger = replace(FIELDS["photo"], shape=(3, 8, 8), mean=(1.0,) * 3, scale=(2.0,) * 3)
    network = build(replace(SIGNATURE, fields={**alike, "b": larger}), image=CNN)
    rows = {"a": torch.zeros(3, 1, 4, 4, dtype=torch.uint8)}
    rows["b"] = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    assert network(rows).shape == (3, 2)


def test_a_network_of_torchvision_reads_images_beside_columns() -> None:
    fields = {**FIELDS, "photo": replace(FIELDS["photo"], shape=(1, 32, 32))}
    network = build(
        replace(SIGNATURE, fields=fields), image={"name": "resnet18"}, width=6, hidden=[]
    )
    inputs = inputs_of(2) | {"photo": torch.zeros(2, 1, 32, 32, dtype=torch.uint8)}
    assert network(inputs).shape == (2, 2)


@pytest.mark.parametrize("sequence", [{"name": "lstm", "width": 6}, {"name": "transformer"}])
def test_an_answer_depends_on_its_own_row_only(sequence: dict[str, Any]) -> None:
    network = build(image=CNN, sequence=sequence)
    made = Bundle(
        network, record_features(), training_spec("store"), {}, {"rows": []}, "", max_rows=8
    )
    rows, _ = make_rows(12, 5, is_stored=False)
    alone = np.concatenate([made.forward(rows[row : row + 1]) for row in range(12)])
    assert made.forward(rows).tobytes() == alone.tobytes()


def test_a_bundle_builds_it_again_and_downloads_nothing(tmp_path: Path) -> None:
    photo = Field("array", "uint8", (3, 32, 32), mean=(90.0,) * 3, scale=(60.0,) * 3)
    made = record_features({"columns": FIELDS["columns"], "photo": photo})
    columns = {"photo": Image(32, 32, 3)} | {
        name: made.columns[name] for name in ("height", "color")
    }
    made = replace(made, columns=columns)
    spec = training_spec("store", model={"name": "fusion", "image": {"name": "resnet18"}})
    network = models.build(spec.model, made.signature, 0)
    # As weights of torchvision would: they bring their own normalisation and size.
    network.body.images[0].input.adopt([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], 64)
    pretrained = spec.model_copy(
        update={"model": section(image={"name": "resnet18", "weights": "DEFAULT"})}
    )
    folder = Storage(str(tmp_path))
    bundle.write(folder, pretrained, made, network.state_dict(), [], {})
    loaded = bundle.load(folder)
    first = loaded.model.body.images[0].input
    assert (first.mean.flatten().tolist(), first.side) == ([1.0, 2.0, 3.0], 64)


@pytest.mark.parametrize(
    ("fields", "parts", "message"),
    [
        (("columns", "words"), {"image": CNN}, "model.image: the rows have no column of images"),
        (
            ("columns", "photo"),
            {"sequence": {"name": "gru"}},
            "model.sequence: the rows have neither a text nor a series",
        ),
        (
            ("words", "photo"),
            {"table": [8]},
            "model.table: the rows have neither numbers nor categories",
        ),
    ],
)
def test_a_part_without_a_field_is_refused(
    fields: tuple[str, ...], parts: dict[str, Any], message: str
) -> None:
    signature = replace(SIGNATURE, fields={name: FIELDS[name] for name in fields})
    with pytest.raises(SpecError) as caught:
        build(signature, **parts)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (Signature("vector", (3,), "float32", (), (), "regression"), "the rows are numbers: mlp"),
        (
            Signature("image", (1, 8, 8), "uint8", (1.0,), (1.0,), "regression"),
            "the rows are images, for which there is cnn",
        ),
    ],
)
def test_rows_of_one_array_are_refused(signature: Signature, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(signature)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"name": "cnn", "weights": "a.safetensors"}, "those of the whole network: model.weights"),
        ({"name": "cnn", "freeze": "body"}, "layers of the whole network are frozen: model.freeze"),
    ],
)
def test_weights_and_frozen_layers_are_those_of_the_whole_network(
    image: dict[str, Any], message: str
) -> None:
    spec = {"name": "a", "storage": "b", "data": {"source": "c"}}
    with pytest.raises(SpecError) as caught:
        specs.from_dict({**spec, "model": {"name": "fusion", "image": image}})
    assert message in str(caught.value)


def test_a_network_that_torchvision_does_not_have_is_refused_early() -> None:
    with pytest.raises(SpecError, match="no model 'resnet19'"):
        section_check.check_section(section(image={"name": "resnet19"}))


def test_a_wrong_field_of_a_part_is_named_with_those_there_are() -> None:
    spec = {"name": "a", "storage": "b", "data": {"source": "c"}}
    with pytest.raises(SpecError) as caught:
        specs.from_dict(
            {**spec, "model": {"name": "fusion", "image": {"name": "cnn", "chanels": [1]}}}
        )
    assert "model.image.chanels" in str(caught.value)
    assert "channels" in str(caught.value)
