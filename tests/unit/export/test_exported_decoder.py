"""Exported decoders: transformers and peft compute the same with them, or nothing is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from decoder_folders import (
    BEGIN,
    END,
    END_CODE,
    TEMPLATE,
    VOCABULARY,
    WORDS,
    decoder_spec,
    write_decoder,
)
from prepared_here import prepare_here
from pretrained_models import PretrainedStore
from training import training_spec

from raydc import bundle, models, train
from raydc import spec as specs
from raydc.bundle import Bundle
from raydc.errors import CheckpointError, UsageError
from raydc.export import exported_decoder, exported_folder
from raydc.models import adapters
from raydc.storage import Storage

ROW = [END_CODE, 7, 9, 8, 12, END_CODE]


class Trained:
    """Rows of a source of texts, and models with the tokens of a folder."""

    def __init__(self, place: Path, write: Any = write_decoder, **config: Any) -> None:
        self.folder = write(place / "decoder", **config)
        source = place / "texts.txt"
        source.write_text(
            "\n".join(
                " ".join(WORDS[(row + i) % 11] for i in range(3 + row % 9)) for row in range(90)
            )
        )
        data = {
            "source": str(source),
            "blocks": {"length": 16, "documents": "line"},
            "split": {"validation_fraction": 0.2, "test_fraction": 0.2},
        }
        self.spec = specs.resolve(specs.from_dict(decoder_spec(self.folder, data)))
        self.data = prepare_here(place, specs.to_dict(self.spec)["data"])[0]

    def spec_of(self, **model: Any) -> Any:
        section = {"name": "huggingface", "path": str(self.folder), **model}
        data = specs.to_dict(self.spec)["data"]
        return training_spec("words", train={"epochs": 1}, model=section, data=data)

    def untrained(self, place: Path, **model: Any) -> Bundle:
        """A model with the weights of the folder, and random adapters."""
        spec, features = self.spec_of(**model), self.data.features
        network = models.build(spec.model, features.signature, 0)
        torch.manual_seed(1)
        for name, one in network.named_parameters():
            if adapters.is_added(name):
                torch.nn.init.normal_(one, std=0.3)
        rows = [{"text": "the cat sees a dog"}, {"text": "müde"}]
        bundle.write(Storage(str(place)), spec, features, network.state_dict(), rows, {})
        return bundle.load(Storage(str(place)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


def scores_of(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.tensor([ROW])).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("is_tied", [True, False])
def test_weights_that_were_not_trained_come_out_byte_for_byte(
    tmp_path: Path, is_tied: bool
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = Trained(tmp_path, tie_word_embeddings=is_tied)
    loaded = made.untrained(tmp_path / "model")
    lines = exported_folder.write(loaded, "huggingface", tmp_path / "out")
    assert lines[0] == "a decoder of AutoModelForCausalLM"
    given, found = (
        safetensors.torch.load_file(one / "model.safetensors")
        for one in (made.folder, tmp_path / "out")
    )
    assert given.keys() == found.keys()
    for name, one in given.items():
        assert one.numpy().tobytes() == found[name].numpy().tobytes()
    own, out = (
        AutoModelForCausalLM.from_pretrained(p).eval() for p in (made.folder, tmp_path / "out")
    )
    assert torch.equal(scores_of(own), scores_of(out))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == END_CODE
    assert tokenizer("the cat").input_ids == [7, 8]


def test_a_run_is_exported_with_what_it_learnt(trained: Trained, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = Storage(str(tmp_path / "run"))
    train.run(trained.spec_of(), trained.data, run, lambda _: None)
    loaded = bundle.load(run / "model")
    exported_folder.write(loaded, "huggingface", tmp_path / "out")
    before, after = (
        scores_of(AutoModelForCausalLM.from_pretrained(p).eval())
        for p in (trained.folder, tmp_path / "out")
    )
    assert not torch.allclose(before, after)
    rows = torch.tensor([[*ROW, *[END_CODE] * 11]])
    with torch.no_grad():
        own = loaded.model({"text": rows})[0, :5]
    expected = -after[0, :5].log_softmax(1).gather(1, rows[0, 1:6, None])[:, 0]
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("with_base", [False, True])
def test_adapters_load_in_peft(trained: Trained, tmp_path: Path, with_base: bool) -> None:
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM

    loaded = trained.untrained(
        tmp_path / "model", lora={"rank": 2, "targets": ["q_proj", "up_proj"]}
    )
    out = tmp_path / "out"
    exported_folder.write(loaded, "huggingface", out, with_base)
    assert (out / "base").is_dir() == with_base
    base = AutoModelForCausalLM.from_pretrained(out / "base" if with_base else trained.folder)
    plain = scores_of(base.eval())
    network = PeftModel.from_pretrained(base, out).eval()
    found = scores_of(network)
    assert not torch.allclose(plain, found)
    with torch.no_grad():
        own = loaded.model.body.decoder(torch.tensor([ROW[:-1]]))  # type: ignore[operator, union-attr]
    torch.testing.assert_close(found[:, :3], own[:, :3], atol=1e-5, rtol=1e-5)
    # The folder of the run is the base that the adapters name.
    named = AutoPeftModelForCausalLM.from_pretrained(out).eval()
    torch.testing.assert_close(scores_of(named), found)


# The end of a turn is that of a text, or another token, as in models that are no assistants yet.
@pytest.mark.parametrize("end_code", [END_CODE, VOCABULARY.index("ok")], ids=["turn", "text"])
def test_a_model_of_conversations_is_exported_with_its_template(
    tmp_path: Path, end_code: int
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_decoder(tmp_path / "decoder", eos_token_id=end_code)
    talk = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sees a dog"}]
    source = tmp_path / "talks.jsonl"
    source.write_text("\n".join(json.dumps({"messages": talk}) for _ in range(60)))
    data = {"source": str(source), "chat": {}, "blocks": {"length": 30}}
    value = decoder_spec(folder, data)
    value["train"] = {"epochs": 12, "learning_rate": 0.02, "global_batch_size": 8}
    value |= {"storage": str(tmp_path / "storage"), "scaling": {"num_workers": 0}}
    spec = specs.resolve(specs.from_dict(value))
    prepared = prepare_here(tmp_path, specs.to_dict(spec))[0]
    run = Storage(str(tmp_path / "run"))
    train.run(spec, prepared, run, lambda _: None)
    loaded = bundle.load(run / "model")
    # The golden rows are conversations.
    assert loaded.golden["rows"]
    loaded.check_golden()
    exported_folder.write(loaded, "huggingface", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.bos_token, tokenizer.eos_token) == (BEGIN, END)
    given = tokenizer.apply_chat_template(
        talk[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    found = network.generate(**given, max_new_tokens=10, do_sample=False)
    # It has learnt the answer, and to stop behind it.
    assert tokenizer.decode(found[0, given["input_ids"].shape[1] :]) == f"sees a dog {END}"


def test_ends_of_the_generation_config_are_exported(tmp_path: Path) -> None:
    generation = {"eos_token_id": [END_CODE, VOCABULARY.index("ok")]}
    store = PretrainedStore(tmp_path, num_versions=1, generation=generation)
    exported_folder.write(store.bundle(), "huggingface", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {*generation["eos_token_id"]} <= {*found["eos_token_id"]}


def test_a_folder_that_computes_something_else_is_not_written(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = trained.untrained(tmp_path / "model")
    state = {name: one.clone() for name, one in loaded.model.state_dict().items()}
    state["body.decoder.base.norm.weight"][0] += 1.0
    write = exported_decoder.write

    def write_other(given: Bundle, folder: Path, with_base: bool) -> list[str]:
        other = models.build(trained.spec_of().model, given.features.signature, 0)
        other.load_state_dict(state)
        return write(replace(given, model=other), folder, with_base)

    monkeypatch.setattr(exported_decoder, "write", write_other)
    with pytest.raises(CheckpointError, match=r"weight model\.norm\.weight differs"):
        exported_folder.write(loaded, "huggingface", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="has no adapters"):
        exported_folder.write(loaded, "huggingface", tmp_path / "out", with_base=True)
