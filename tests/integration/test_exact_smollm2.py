"""SmolLM2-135M with adapters: one hash across a kill and a resize, and its folder out again."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
from prepared_here import prepare_here
from ranks import Ranks
from smollm2 import convert_smollm2
from test_exact_options import lines_of, outcome
from training import training_spec

from raydc import spec as specs
from raydc.checkpoint.state import unpack_model
from raydc.checkpoint.store import CheckpointStore
from raydc.storage import Storage

NUM_STEPS, LENGTH, NUM_ROWS = 50, 128, 4
# A step of four rows takes seconds on one core.
_TIMEOUT_S = 3600


@pytest.mark.soak
def test_adapters_of_smollm2_survive_a_kill_and_a_resize(ranks: Ranks, tmp_path: Path) -> None:
    folder = convert_smollm2(tmp_path / "smollm2")
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
            "blocks": {"length": LENGTH, "documents": "line"},
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
    data = prepare_here(tmp_path, specs.to_dict(spec)["data"])[0].folder
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
