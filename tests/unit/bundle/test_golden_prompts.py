"""Golden prompts: a language model whose tokens differ is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from language_models import TEXTS, block_of, language_features, write_language_bundle

from raydc import bundle, checksummed_folder
from raydc.bundle import golden_prompts
from raydc.bundle.completion import complete
from raydc.bundle.golden_prompts import PROMPTS
from raydc.bundle.growing_answer import AnswerOptions
from raydc.errors import CheckpointError
from raydc.storage import Storage


def change_golden(folder: Storage, **fields: Any) -> None:
    meta, files = checksummed_folder.read_checksummed(folder)
    golden = {**json.loads(files["golden.json"]), **fields}
    folder.delete()
    changed = {**files, "golden.json": json.dumps(golden).encode()}
    checksummed_folder.write_checksummed(folder, changed, meta)


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    made = Storage(str(tmp_path / "bundle"))
    write_language_bundle(made)
    return made


def test_a_bundle_has_the_greedy_tokens_behind_beginnings_of_its_golden_rows(
    folder: Storage,
) -> None:
    loaded = bundle.load(folder)
    loaded.check_golden()
    prompts = loaded.golden[PROMPTS]
    assert len(prompts) == len(TEXTS)
    block = block_of(language_features())
    for text, one in zip(TEXTS, prompts, strict=True):
        texts = block.texts([])
        beginning = "".join(texts.add(code) for code in one["prompt"])
        assert beginning
        assert text.startswith(beginning)
        found = complete(loaded, beginning, AnswerOptions(len(one["answer"])))
        assert list(found.codes) == one["answer"]


def test_a_token_that_is_not_the_likeliest_is_refused(folder: Storage) -> None:
    prompts = bundle.load(folder).golden[PROMPTS]
    right = prompts[1]["answer"][2]
    prompts[1]["answer"][2] = (right + 1) % 250
    change_golden(folder, **{PROMPTS: prompts})
    with pytest.raises(CheckpointError, match=rf"golden prompts\[1\]: token 2 .* is {right} "):
        bundle.load(folder).check_golden()


def test_a_model_of_an_older_raydc_has_none_and_is_not_refused(folder: Storage) -> None:
    golden = bundle.load(folder).golden
    change_golden(folder, **{PROMPTS: []})
    assert bundle.load(folder).golden[PROMPTS] != golden[PROMPTS]
    bundle.load(folder).check_golden()


def test_a_network_that_continues_no_documents_has_none(folder: Storage) -> None:
    features = bundle.load(folder).features
    rows = [{"text": text} for text in TEXTS]
    assert golden_prompts.compute(rows, features, torch.nn.Linear(2, 2)) == []
