"""Section `model`: the network that a spec names."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydc import spec as specs
from raydc.errors import SpecError
from raydc.spec.model import Builder, Cnn, Linear, Mlp, Torchvision
from raydc.spec.model_section import ModelSection
from raydc.storage import sha256


def test_without_weights_of_torchvision_keeps_all_other_fields() -> None:
    section = Torchvision(name="resnet18", weights="DEFAULT", arguments={"zero_init": True})
    plain = Torchvision(name="resnet18", arguments={"zero_init": True})
    assert section.without_weights() == plain
    assert section.weights == "DEFAULT"


@pytest.mark.parametrize(
    "section",
    [Linear(name="linear"), Mlp(name="mlp"), Cnn(name="cnn"), Builder(builder="package:function")],
)
def test_without_weights_of_networks_with_none_changes_nothing(section: ModelSection) -> None:
    assert section.without_weights() == section


@pytest.mark.parametrize(
    ("weights", "is_file"),
    [
        ("DEFAULT", False),
        ("IMAGENET1K_V2", False),
        ("w.safetensors", True),
        ("./w", True),
        ("/store/models/digits/1", True),
    ],
)
def test_weights_of_torchvision_are_a_name_or_a_file(weights: str, is_file: bool) -> None:
    assert Torchvision(name="resnet18", weights=weights).weights_file == (
        weights if is_file else None
    )


def test_resolve_notes_the_content_of_a_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"tensors")
    given = {
        "name": "one",
        "data": {"source": "rows.csv"},
        "model": {"name": "mlp", "weights": str(tmp_path)},
    }
    resolved = specs.resolve(specs.from_dict(given))
    assert resolved.model.weights == str(tmp_path / "model.safetensors")
    assert resolved.model.weights_sha256 == sha256(b"tensors")
    # A stored spec keeps what its run began with, with or without the file.
    for content in (b"others", None):
        (tmp_path / "model.safetensors").unlink()
        if content is not None:
            (tmp_path / "model.safetensors").write_bytes(content)
        again = specs.resolve(specs.from_dict(specs.to_dict(resolved)))
        assert again.model == resolved.model


def test_normalisation_has_as_many_means_as_deviations() -> None:
    section = {"name": "cnn", "normalisation": {"mean": [0.1], "std": [0.1, 0.2]}}
    given = {"name": "one", "data": {"source": "rows.csv"}, "model": section}
    with pytest.raises(SpecError, match="one number for each channel"):
        specs.from_dict(given)
