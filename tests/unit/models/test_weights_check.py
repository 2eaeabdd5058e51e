"""What is said about weights before there is data, for every form of section `model`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
from encoder_folders import SIZES, require_library
from records import FIELDS, record_features
from signatures import COLOUR, TABLE, TINY
from token_rows import token_features
from window_rows import window_features

from raydc import models
from raydc.errors import SpecError
from raydc.features import Field, Signature
from raydc.models import description, section_check, weights_check
from raydc.spec.data import Data
from raydc.spec.forecast_models import LinearForecaster, TemporalConvolution
from raydc.spec.model import (
    Builder,
    Cnn,
    Factorisation,
    Fusion,
    Linear,
    Mlp,
    Model,
    Recurrent,
    Torchvision,
    Transformer,
    TwoTowers,
)
from raydc.spec.sequence_models import Decoder, FolderContent, HuggingFace

RECORD, WINDOWS = record_features().signature, window_features().signature
COLUMNS = replace(RECORD, fields={name: FIELDS[name] for name in ("columns", "city")})
CITIES = replace(RECORD, fields={"city": FIELDS["city"], "town": FIELDS["city"]})
TEXT = replace(RECORD, fields={"body": Field("list", "uint8", num_codes=14, max_length=9)})
# What a run has noted of a folder is enough to build its network.
ENCODER = HuggingFace(
    name="huggingface",
    path="gone",
    pooling="mean",
    content=FolderContent(
        config={"model_type": "bert", "vocab_size": 14, "max_position_embeddings": 9, **SIZES},
        files={},
    ),
)
EXAMPLES: list[tuple[Any, Signature]] = [
    (Linear(name="linear"), TABLE),
    (Linear(name="linear"), COLUMNS),
    (Mlp(name="mlp", hidden=[4]), TINY),
    (Mlp(name="mlp", hidden=[4]), COLUMNS),
    (Mlp(name="mlp", hidden=[4]), WINDOWS),
    (Cnn(name="cnn", channels=[3], hidden=4), TINY),
    (Recurrent(name="gru", width=4), WINDOWS),
    (Transformer(name="transformer", width=4, heads=2), WINDOWS),
    (ENCODER, TEXT),
    (Decoder(name="decoder", width=16), token_features().signature),
    (Factorisation(name="factorisation", width=3), CITIES),
    (TwoTowers(name="two_towers", user=["height", "color"], item=["city"]), COLUMNS),
    (Fusion(name="fusion", image={"name": "cnn", "channels": [3]}), RECORD),  # type: ignore[arg-type]
    (LinearForecaster(name="dlinear", kernel=5), WINDOWS),
    (LinearForecaster(name="nlinear"), WINDOWS),
    (TemporalConvolution(name="tcn", width=4), WINDOWS),
    (Torchvision(name="resnet18"), COLOUR),
    (Builder(builder="exact_models:residual"), TINY),
]


def write(path: Path, network: Any, changes: dict[str, Any] | None = None) -> str:
    tensors = {name: one.contiguous() for name, one in network.state_dict().items()}
    safetensors.torch.save_file({**tensors, **(changes or {})}, path)
    return str(path)


def data_of(signature: Signature) -> Data:
    data: dict[str, Any] = {"source": "rows"}
    if signature is COLUMNS:
        data["features"] = {"encodings": {"city": "embedding"}}
    return Data.model_validate(data)


def test_every_form_has_an_example() -> None:
    forms = {get_args(member)[0] for member in get_args(get_args(Model)[0])}
    assert forms == {type(section) for section, _ in EXAMPLES}


@pytest.mark.parametrize(("section", "signature"), EXAMPLES, ids=lambda one: str(one)[:30])
def test_what_a_network_takes_is_not_refused_before_there_is_data(
    tmp_path: Path, section: Any, signature: Signature
) -> None:
    if isinstance(section, HuggingFace):
        require_library()
    path = write(tmp_path / "w.safetensors", models.build(section, signature, 3))
    given = section.model_copy(update={"weights": path})
    assert models.build(given, signature, 0).notes[0].startswith("starts with")
    section_check.check_section(given)
    description.describe_early(given, data_of(signature))
    # The first layer is that of the embeddings, where there are any.
    for pattern in ("body", "0") if signature is COLUMNS and section.name == "mlp" else ("body",):
        frozen = given.model_copy(update={"freeze": [pattern]})
        models.build(frozen, signature, 0)
        description.describe_early(frozen, data_of(signature))


def test_layers_behind_embeddings_are_compared(tmp_path: Path) -> None:
    section = Mlp(name="mlp", hidden=[4, 4])
    network = models.build(section, COLUMNS, 3)
    changes = {"body.3.weight": network.state_dict()["body.3.weight"][:, :2].contiguous()}
    path = write(tmp_path / "w.safetensors", network, changes)
    with pytest.raises(SpecError, match=r"of a different shape: body\.3\.weight \[4, 2\]"):
        weights_check.check_file(section.model_copy(update={"weights": path}))
