"""Adapters of low rank on a pretrained encoder: what trains, their names, and peft's own files."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from encoder_folders import make_texts, text_features, write_encoder
from torch import nn

from raydc import models
from raydc import spec as specs
from raydc.errors import SpecError
from raydc.models import adapters
from raydc.models.network_parts import Network
from raydc.models.pretrained_part import part_of
from raydc.models.row_tensors import network_inputs, to_tensors
from raydc.models.weights_check import check_file
from raydc.spec.encoder_folder import ENCODERS
from raydc.spec.sequence_models import HuggingFace

LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def section(folder: Path, **model: Any) -> HuggingFace:
    features = {"columns": {"body": "text"}, "text": {"max_tokens": 30}}
    value = {
        "name": "e",
        "data": {"source": "rows.csv", "features": features},
        "model": {"name": "huggingface", "path": str(folder), **model},
    }
    found = specs.resolve(specs.from_dict(value)).model
    assert isinstance(found, HuggingFace)
    return found


def build(folder: Path, seed: int = 0, **model: Any) -> Network:
    return models.build(section(folder, **model), text_features().signature, seed)


def inputs() -> Any:
    return network_inputs(to_tensors(text_features().apply({"body": make_texts(12, 3)[0]})))


def train(network: Network) -> None:
    """Two steps on the sum of the outputs, so that neither A nor B is as it began."""
    trained = [one for one in network.parameters() if one.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    torch.manual_seed(0)
    for _ in range(2):
        optimizer.zero_grad()
        network(inputs()).square().mean().backward()
        optimizer.step()


def refusal(folder: Path, **model: Any) -> str:
    with pytest.raises(SpecError) as refused:
        build(folder, **model)
    [problem] = refused.value.problems
    return f"{problem.path}: {problem.message}"


def added(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one for name, one in network.state_dict().items() if adapters.is_added(name)}


@pytest.mark.parametrize("kind", ENCODERS)
def test_only_adapters_and_the_last_layer_train(kind: str, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", kind, pooling=None)
    plain, network = build(folder), build(folder, lora=LORA)
    # Each B is zero at first.
    assert torch.equal(plain.eval()(inputs()), network.eval()(inputs()))
    trained = {name for name, one in network.named_parameters() if one.requires_grad}
    assert trained == added(network).keys() | {"body.head.weight", "body.head.bias"}
    encoder = part_of(plain).base
    layers = [one for one in encoder.modules() if type(one) is nn.Linear]
    expected = sum(4 * (one.in_features + one.out_features) for one in layers)
    assert sum(one.numel() for one in added(network).values()) == expected > 0
    before = network.state_dict()
    kept = {name: one.clone() for name, one in before.items() if name not in trained}
    train(network.train())
    after = network.state_dict()
    assert all(torch.equal(after[name], one) for name, one in kept.items())
    assert all(bool(one.any()) for name, one in added(network).items() if ".lora_B." in name)


def test_the_first_adapters_are_a_function_of_the_seed(folder: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (added(build(folder, seed, lora=LORA)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, again[name]) for name, one in first.items())
    drawn = [name for name in first if ".lora_A." in name]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


@pytest.mark.parametrize(
    ("targets", "ends"),
    [
        ("query", ["0.attention.self.query", "1.attention.self.query"]),
        (
            ["layer.1.attention.self.*"],
            [f"1.attention.self.{one}" for one in ("query", "key", "value")],
        ),
        (["output.dense"], [f"{i}.{at}output.dense" for i in (0, 1) for at in ("attention.", "")]),
        (["encoder.layer.0", "1.intermediate"], None),
    ],
    ids=str,
)
def test_targets_are_ends_of_names_or_patterns(
    folder: Path, targets: Any, ends: list[str] | None
) -> None:
    names = list(added(build(folder, lora={"targets": targets})))
    found = [name.split(".encoder.layer.")[1].split(".lora_")[0] for name in names[::2]]
    if ends is None:
        assert len(found) == 7
        assert found[-1] == "1.intermediate.dense"
    else:
        assert found == ends


def test_a_target_that_is_no_linear_layer_is_refused_with_those_that_are(folder: Path) -> None:
    assert refusal(folder, lora={"targets": ["query", "q_lin"]}) == (
        "model.lora.targets: 'q_lin' names no linear layer of the network; there are "
        "attention.self.query, attention.self.key, attention.self.value, attention.output.dense, "
        "intermediate.dense, output.dense"
    )
    assert "did you mean query?" in refusal(folder, lora={"targets": "querry"})
    # It is a layer, but not a linear one.
    assert "'LayerNorm' names no linear layer" in refusal(folder, lora={"targets": "LayerNorm"})


def test_adapters_that_could_not_train_are_refused(folder: Path) -> None:
    found = refusal(folder, lora=LORA, freeze="body")
    assert found.startswith("model.freeze: it freezes all adapters of model.lora")
    network = build(folder, lora=LORA, freeze="*.layer.0")
    trained = [name for name, one in network.named_parameters() if one.requires_grad]
    assert any(map(adapters.is_added, trained))
    assert not any(".layer.0." in name for name in trained)


def test_a_network_is_never_given_adapters_twice(folder: Path) -> None:
    network = build(folder, lora=LORA)
    with pytest.raises(ValueError, match="has adapters already"):
        adapters.add(network, section(folder, lora=LORA), 0)


def test_dropout_of_adapters_follows_the_generator(folder: Path) -> None:
    network = build(folder, lora={**LORA, "dropout": 0.5}, dropout=0.0)
    for name, one in added(network).items():
        if ".lora_B." in name:
            nn.init.ones_(one)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(network.train()(inputs()))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(network.eval()(inputs()), network.eval()(inputs()))


@pytest.mark.parametrize("targets", [None, ["query", "value"]])
def test_adapters_in_their_own_format_load_in_peft(
    folder: Path, tmp_path: Path, targets: list[str] | None
) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    network = build(folder, lora={**LORA, "targets": targets}, pooling="mean")
    train(network)
    adapters.write_files(network, tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert all(name.endswith((".json", ".safetensors", ".md")) for name in names)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8.0, "LORA")
    # In full: peft would look for a short name in other places, too.
    layers = {name.split(".base.")[1].split(".lora_")[0] for name in added(network)}
    assert set(config["target_modules"]) == layers
    with warnings.catch_warnings():
        # peft warns of tensors that a file lacks.
        warnings.simplefilter("error", UserWarning)
        base = AutoModel.from_pretrained(folder, attn_implementation="eager")
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    given = {"input_ids": torch.tensor([[2, 4, 5, 3]]), "attention_mask": torch.ones(1, 4)}
    with torch.no_grad():
        own = part_of(network.eval()).base(**given).last_hidden_state
        theirs = loaded.eval()(**given).last_hidden_state
        with loaded.disable_adapter():
            plain = loaded(**given).last_hidden_state
    assert torch.equal(own, theirs)
    assert not torch.allclose(own, plain, atol=1e-3)


def test_a_training_starts_from_weights_with_and_without_adapters(
    folder: Path, tmp_path: Path
) -> None:
    for name, model in {"full": {}, "lora": {"lora": LORA}}.items():
        network = build(folder, seed=3, **model)
        train(network)
        path = str(tmp_path / f"{name}.safetensors")
        safetensors.torch.save_file(dict(network.state_dict()), path)
        given = section(folder, lora=LORA, weights=path)
        check_file(given)
        began = models.build(given, text_features().signature, 4)
        assert torch.equal(network.eval()(inputs()), began.eval()(inputs())), name
        trained = [one for one, value in began.named_parameters() if value.requires_grad]
        assert set(trained) == added(began).keys() | {"body.head.weight", "body.head.bias"}


def test_a_stored_spec_with_adapters_needs_no_folder(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    model = section(copied, lora=LORA)
    shutil.rmtree(copied)
    network = models.build(model.without_weights(), text_features().signature, 0)
    assert added(network)
