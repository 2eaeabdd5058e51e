"""Adapters of one base whose rows differ: in length, in the name of their column, in their end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pretrained_models import LORA, NAME, PretrainedStore, write_pretrained_bundle

from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.bundle.shared_base import BASE
from raydc.serve.replica.loaded_version import load_version
from raydc.storage import Storage

OPTIONS = AnswerOptions(6)


@pytest.mark.parametrize(
    ("is_chat", "fields"),
    [
        (True, {"target": "talk", "length": 20}),
        (False, {"target": "story", "length": 20, "end_token": "<|im_start|>"}),
    ],
)
def test_a_version_reads_rows_as_in_its_own_training(
    tmp_path: Path, is_chat: bool, fields: dict[str, Any]
) -> None:
    store = PretrainedStore(tmp_path, is_chat=is_chat, num_versions=1, lora=LORA)
    data = store.spec.data
    blocks = {name: one for name, one in fields.items() if name != "target"}
    changed = {
        "blocks": data.blocks.model_copy(update=blocks),
        "target": fields.get("target", data.target),
    }
    other = store.spec.model_copy(update={"data": data.model_copy(update=changed)})
    write_pretrained_bundle(Storage(str(tmp_path / "other")), other, seed=5)
    version = store.registry.register(NAME, Storage(str(tmp_path / "other")), {"run": NAME})
    settings = store.settings(1)
    first = load_version(settings, 1, None, ThreadPoolExecutor(1))
    # Golden rows and prompts are checked here.
    found = load_version(settings, version, None, ThreadPoolExecutor(1), [first])
    assert found.bundle.facts[BASE] == first.bundle.facts[BASE]
    assert found.engine is not None
    assert found.engine.max_tokens == other.data.blocks.length
    alone = store.bundle(version)
    for prompt in ("the cat", "a dog sees"):
        assert complete(found.bundle, prompt, OPTIONS) == complete(alone, prompt, OPTIONS)
    first.bundle.check_golden()
