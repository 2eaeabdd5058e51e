"""SmolLM2-135M with adapters: one hash across a kill and a resize, and served as offline."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import safetensors.torch
import torch
from decoder_folders import decoder_spec
from prepared_here import prepare_here
from ranks import Ranks
from served_language import LanguageServer
from smollm2 import convert_smollm2
from test_exact_minilm import check_drill
from test_exact_options import lines_of, outcome
from training import training_spec

from raydc import bundle, engine, models
from raydc import spec as specs
from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.checkpoint.state import unpack_model
from raydc.checkpoint.store import CheckpointStore
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.data.prepared import load as load_prepared
from raydc.data.tokenizer_file import check_conversations
from raydc.features import Signature
from raydc.features.conversation_column import LEARNT
from raydc.registry import Registry
from raydc.serve.control.application import build_settings
from raydc.serve.settings import Traffic
from raydc.spec import ResolvedSpec
from raydc.spec.sections import Serve
from raydc.storage import Storage

NUM_STEPS, LENGTH, NUM_ROWS = 50, 128, 4
# A drill has some sixty steps, with those that are repeated.
DRILL_LENGTH = 32
# A step of four rows takes seconds on one core.
_TIMEOUT_S = 3600
_NUM_TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_smollm2(tmp_path_factory.mktemp("smollm2") / "folder")


@pytest.mark.soak
def test_answers_in_the_template_of_smollm2(folder: Path) -> None:
    """Tokens are those of transformers, and packed conversations have the losses of its network."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    value = decoder_spec(folder, {"chat": {}, "blocks": {"length": 160}})
    spec = specs.resolve(specs.from_dict(value))
    column = check_conversations(spec.data)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    talks = [
        [
            {"role": "user", "content": "What is 2 + 2?"},
            {"role": "assistant", "content": " It is 4, müde 🙂.\n"},
            {"role": "user", "content": "Thanks"},
            {"role": "assistant", "content": "You're welcome"},
        ],
        [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Name a town."},
            {"role": "assistant", "content": "Bern"},
        ],
    ]
    found = [column.encode(talk, "talk") for talk in talks]
    for talk, codes in zip(talks, found, strict=True):
        assert tokenizer.apply_chat_template(talk)["input_ids"] == (codes % 49152).tolist()
        learnt = tokenizer.decode((codes % 49152)[codes // 49152 >= LEARNT].tolist())
        assert learnt == "".join(one["content"] + "<|im_end|>" for one in talk[-1:0:-2][::-1])
    row_M, count = column.fill(found)
    fields = {"messages": column.field}
    signature = Signature(
        "record", (), "", (), (), "language_modelling", (), fields, num_values=160
    )
    network = models.build(spec.model, signature, 0).eval()
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = []
    with torch.no_grad():
        losses = network({"messages": torch.from_numpy(row_M.astype(np.int64))[None]})[0]
        for codes in found:
            tokens = torch.from_numpy((codes % 49152).astype(np.int64))
            scores = own(tokens[None]).logits[0].log_softmax(1)
            places = np.flatnonzero(codes // 49152 >= LEARNT).tolist()
            expected += [-float(scores[place - 1, tokens[place]]) for place in places]
    assert len(expected) == count
    torch.testing.assert_close(losses[:count], torch.tensor(expected), atol=1e-3, rtol=1e-3)
    assert not losses[count:].any()


@pytest.mark.soak
def test_adapters_of_smollm2_survive_killed_workers_and_drivers_of_ray(
    ray_engine: engine.Engine, folder: Path, tmp_path: Path
) -> None:
    check_drill(ray_engine, *train_spec(folder, tmp_path, DRILL_LENGTH))


@pytest.mark.soak
def test_adapters_of_smollm2_survive_a_kill_and_a_resize(
    ranks: Ranks, folder: Path, tmp_path: Path
) -> None:
    spec, prepared = train_spec(folder, tmp_path)
    data = prepared.folder
    alone, resized = Storage(str(tmp_path / "alone")), Storage(str(tmp_path / "resized"))
    ranks.fit(1, spec, alone, data, timeout_s=_TIMEOUT_S)
    for world_size, stop_after in ((2, 17), (4, 34), (1, None)):
        ranks.fit(world_size, spec, resized, data, stop_after, timeout_s=_TIMEOUT_S)
    expected = outcome(alone, NUM_STEPS)
    assert outcome(resized, NUM_STEPS) == expected
    losses = [line["loss"] for line in lines_of(alone, "step")]
    assert losses[-1] < losses[0] / 2
    # What the adapters stand beside is what came in, and nothing was wrapped twice.
    store = CheckpointStore(resized / "checkpoints", 1)
    weights = unpack_model(store.read(NUM_STEPS))
    given = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {
        name.replace("body.decoder.base.", "model.").replace(".base_layer", ""): one
        for name, one in weights.items()
        if "lora" not in name
    }
    assert kept.keys() == given.keys()
    assert all(one.equal(given[name].float()) for name, one in kept.items())
    # Seven linear layers in each of thirty.
    assert len(weights) - len(kept) == 2 * 7 * 30
    answers_as_offline(spec, data, weights, tmp_path)


def train_spec(folder: Path, tmp_path: Path, length: int = LENGTH) -> tuple[ResolvedSpec, Prepared]:
    """A spec of adapters on lines of text in blocks, and the blocks as it prepares them."""
    source = tmp_path / "texts.txt"
    towns, verbs = ["Aachen", "Bern", "Cork", "Dover"], ["leaves", "reaches", "passes"]
    source.write_text(
        "\n".join(
            f"The train {number} {verbs[number % 3]} {towns[number % 4]} at {number % 24}:30, and "
            f"the next one, number {number + 1}, follows an hour later."
            for number in range(400)
        )
    )
    spec = training_spec(
        str(tmp_path / "store"),
        data={
            "source": str(source),
            "task": "language_modelling",
            "blocks": {"length": length, "documents": "line"},
            "split": {"validation_fraction": 0.05, "test_fraction": 0.05},
        },
        model={"name": "huggingface", "path": str(folder), "lora": {"rank": 8, "dropout": 0.1}},
        train={
            "max_steps": NUM_STEPS,
            "epochs": None,
            "global_batch_size": NUM_ROWS,
            "logical_shards": NUM_ROWS,
            "learning_rate": 1e-3,
            "gradient_clip_norm": 1.0,
            "precision": "bf16",
            "log_every_steps": 1,
        },
        checkpoint={"every_steps": 10, "num_to_keep": 1},
    )
    # Its token of padding is its end, too.
    assert spec.data.blocks.end_token == "<|im_end|>"
    return spec, prepare_here(tmp_path, specs.to_dict(spec)["data"])[0]


def answers_as_offline(
    spec: ResolvedSpec, data: Storage, weights: dict[str, torch.Tensor], folder: Path
) -> None:
    """Serves a trained model, whose texts are those of its bundle in any company."""
    made, store = Storage(str(folder / "made")), Storage(str(folder / "registry"))
    prepared = load_prepared(data)
    rows = read_golden_rows(data)
    bundle.write(made, spec, prepared.features, weights, rows, {"run": spec.name})
    Registry(store).register(spec.name, made, {"run": spec.name})
    offline = bundle.load(Registry(store).folder(spec.name, 1))
    section = Serve(auth="none", request_timeout_s=600.0, access_log=False)
    settings = build_settings(spec.name, section, store, Traffic(version=1))
    prompts = ["The train", "The train 17 leaves", "The train 5 reaches Bern at", "An hour later"]
    talk = [{"role": "user", "content": "Which train leaves Aachen?"}]
    wanted = AnswerOptions(_NUM_TOKENS)
    expected = [complete(offline, one, wanted).text for one in (*prompts, talk)]
    with LanguageServer(settings).running() as server, ThreadPoolExecutor(len(expected)) as pool:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=600)
        asked: Any = {"model": spec.name, "max_tokens": _NUM_TOKENS, "temperature": 0}
        texts = [pool.submit(client.completions.create, prompt=one, **asked) for one in prompts]
        answer = client.chat.completions.create(messages=talk, **asked)
        found = [one.result().choices[0].text for one in texts]
        assert [*found, answer.choices[0].message.content] == expected
        # What it has learnt goes on: trains that leave or reach a town.
        assert any(town in found[1] for town in ("Aachen", "Bern", "Cork", "Dover"))
