"""Files of weights: what is read, what is refused, and what a network takes from them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import token_rows
import torch
from signatures import COLOUR, GREY, TABLE, TINY, make_rows
from torch import Tensor

from raydc import models
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.models import section_check, weights_file
from raydc.spec.model import Builder, Cnn, Linear, Mlp, Torchvision
from raydc.spec.sequence_models import Decoder
from raydc.storage import sha256

MLP: dict[str, Any] = {"name": "mlp", "hidden": [6, 5]}


def weights_of(network: Any, without: str = "") -> dict[str, Tensor]:
    return {
        name.removeprefix(without): tensor.contiguous().clone()
        for name, tensor in network.state_dict().items()
    }


def write(path: Path, tensors: dict[str, Tensor]) -> str:
    safetensors.torch.save_file(tensors, path)
    return str(path)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "wrapped", "parallel"])
def test_load_takes_all_forms_of_a_file(tmp_path: Path, kind: str) -> None:
    trained = models.build(Mlp(**MLP), TABLE, 3)
    tensors = weights_of(trained)
    path = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        write(path, tensors)
    elif kind == "pt":
        torch.save(tensors, path)
    elif kind == "wrapped":
        torch.save({"epoch": 3, "state_dict": tensors}, path)
    else:
        torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, path)
    network = models.build(Mlp(**MLP, weights=str(path)), TABLE, 0)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in tensors.items())
    assert network.notes == [f"starts with 6 tensors of {path}"]
    # Checked before there is data.
    section_check.check_section(Mlp(**MLP, weights=str(path)))


def test_load_starts_the_last_layer_anew_for_other_classes(tmp_path: Path) -> None:
    three = Signature(**{**vars(TABLE), "classes": ("a", "b", "c", "d")})
    path = write(tmp_path / "w.safetensors", weights_of(models.build(Mlp(**MLP), three, 3)))
    plain = models.build(Mlp(**MLP), TABLE, 0).state_dict()
    network = models.build(Mlp(**MLP, weights=path), TABLE, 0)
    for name in ("body.5.weight", "body.5.bias"):
        assert torch.equal(network.state_dict()[name], plain[name])
    assert network.notes == [
        f"starts with 4 tensors of {path}",
        "not taken from it: body.5.bias [4], body.5.weight [4, 5]",
    ]


def test_load_takes_names_of_torchvision_and_of_a_file_without_a_head(tmp_path: Path) -> None:
    section: dict[str, Any] = {"name": "resnet18"}
    trained = weights_of(models.build(Torchvision(**section), COLOUR, 3).body)
    whole = write(tmp_path / "whole.safetensors", trained)
    del trained["fc.weight"], trained["fc.bias"]
    # Files of old versions of torch have no counters.
    trained = {name: t for name, t in trained.items() if "num_batches" not in name}
    headless = write(tmp_path / "headless.safetensors", trained)
    first = models.build(Torchvision(**section, weights=whole), COLOUR, 0).state_dict()
    second = models.build(Torchvision(**section, weights=headless), COLOUR, 0).state_dict()
    for name, tensor in trained.items():
        assert torch.equal(first[f"body.{name}"], tensor)
        assert torch.equal(second[f"body.{name}"], tensor)
    assert not torch.equal(first["body.fc.weight"], second["body.fc.weight"])
    section_check.check_section(Torchvision(**section, weights=headless))


def test_load_leaves_auxiliary_heads_out(tmp_path: Path) -> None:
    from torchvision import models as zoo

    full = zoo.get_model("googlenet", aux_logits=True, init_weights=False)
    path = write(tmp_path / "w.safetensors", weights_of(full))
    arguments = {"init_weights": False}
    network = models.build(
        Torchvision(name="googlenet", weights=path, arguments=arguments), COLOUR, 0
    )
    assert torch.equal(network.body.conv1.conv.weight, full.conv1.conv.weight)
    assert "aux1.conv.conv.weight" in network.notes[1]


def _rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("3.", "4."): tensor for name, tensor in tensors.items()}


def _reshape(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "body.3.weight": torch.zeros(7, 6)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _rename,
            r"missing: body\.3\.weight, body\.3\.bias; unexpected: body\.4\.\w+, body\.4\.\w+$",
        ),
        (_reshape, r"of a different shape: body\.3\.weight \[7, 6\] instead of \[5, 6\]$"),
    ],
)
def test_check_names_what_does_not_fit_without_data(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    tensors = change(weights_of(models.build(Mlp(**MLP), TABLE, 3)))
    section = Mlp(**MLP, weights=write(tmp_path / "w.safetensors", tensors))
    with pytest.raises(SpecError, match=message):
        section_check.check_section(section)
    with pytest.raises(SpecError, match=message):
        models.build(section, TABLE, 0)


@pytest.mark.parametrize("section", [Linear(name="linear"), Cnn(name="cnn", depth=1), Mlp(**MLP)])
@pytest.mark.parametrize("signature", [GREY, TINY, COLOUR], ids=lambda s: str(s.shape))
def test_check_takes_what_fits_some_data_set(
    tmp_path: Path, section: Any, signature: Signature
) -> None:
    tensors = weights_of(models.build(section, signature, 3))
    path = write(tmp_path / "w.safetensors", tensors)
    section_check.check_section(section.model_copy(update={"weights": path}))


def test_other_data_is_refused_once_it_is_there(tmp_path: Path) -> None:
    narrow = Signature(**{**vars(TABLE), "shape": (4,)})
    path = write(tmp_path / "w.safetensors", weights_of(models.build(Mlp(**MLP), narrow, 3)))
    with pytest.raises(SpecError, match=r"of a different shape: body\.1\.weight"):
        models.build(Mlp(**MLP, weights=path), TABLE, 0)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code of a file ran",))


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_read_refuses_what_holds_no_tensors(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    section = Mlp(**MLP, weights=str(path))
    with pytest.raises(SpecError, match="No such file"):
        weights_file.read(section)
    path.write_bytes(b"no weights" * 100)
    with pytest.raises(SpecError, match=r"w.* is not a file of weights|holds more than tensors"):
        weights_file.read(section)
    torch.save({"layer": _Evil()}, tmp_path / "evil.pt")
    with pytest.raises(SpecError, match="holds more than tensors"):
        weights_file.read(Mlp(**MLP, weights=str(tmp_path / "evil.pt")))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"layer": _Evil()}))
    with pytest.raises(SpecError, match=r"is not run|no file of weights"):
        weights_file.read(Mlp(**MLP, weights=str(tmp_path / "plain.pt")))
    torch.save({"epoch": 3}, tmp_path / "number.pt")
    with pytest.raises(SpecError, match="epoch is of type int, not a tensor"):
        weights_file.read(Mlp(**MLP, weights=str(tmp_path / "number.pt")))
    assert "ran" not in capsys.readouterr().out


def test_read_refuses_another_file_than_the_run_began_with(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write(path, weights_of(models.build(Mlp(**MLP), TABLE, 3)))
    section = Mlp(**MLP, weights=str(path), weights_sha256=sha256(path.read_bytes()))
    weights_file.read(section)
    write(path, weights_of(models.build(Mlp(**MLP), TABLE, 4)))
    with pytest.raises(SpecError, match="the file has changed since the run began"):
        weights_file.read(section)


def test_builder_takes_a_file(tmp_path: Path) -> None:
    section = Builder(builder="exact_models:residual")
    trained = models.build(section, TINY, 3)
    path = write(tmp_path / "w.safetensors", weights_of(trained.body))
    section = section.model_copy(update={"weights": path})
    section_check.check_section(section)
    network = models.build(section, TINY, 0).eval()
    rows = make_rows(TINY)
    assert torch.equal(network(rows), trained.eval()(rows))


@pytest.mark.parametrize("tied", [True, False])
def test_decoder_whose_last_layer_is_missing_is_refused(tmp_path: Path, tied: bool) -> None:
    section, signature = (
        Decoder(**token_rows.MODEL, tied=tied),
        token_rows.token_features().signature,
    )
    tensors = weights_of(models.build(section, signature, 3))
    whole = write(tmp_path / "whole.safetensors", tensors)
    models.build(section.model_copy(update={"weights": whole}), signature, 0)
    (norm,) = (name for name in tensors if name.endswith("decoder.norm.weight"))
    path = write(tmp_path / "w.safetensors", {k: v for k, v in tensors.items() if k != norm})
    with pytest.raises(SpecError, match=rf"missing: {re.escape(norm)}"):
        models.build(section.model_copy(update={"weights": path}), signature, 0)
