"""Pretrained decoders in a replica: each text is its version's offline text in any company."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from decoder_folders import END_CODE
from pretrained_models import LENGTH, LORA, PretrainedStore

from raydc.bundle.completion import complete, find_prompts
from raydc.bundle.growing_answer import AnswerOptions
from raydc.errors import CheckpointError, DataError, SpecError
from raydc.models.token_sampling import TokenSampling
from raydc.serve.replica.loaded_version import LoadedVersion, load_version

FORMS: list[dict[str, Any]] = [
    {"is_chat": True},
    {"is_chat": False, "kind": "qwen2", "attention": "sdpa"},
    {"is_chat": True, "lora": LORA},
    {"is_chat": False, "kind": "gpt2"},
]
TEXTS = [
    "the cat sees a dog",
    "a",
    "then home again ok müde and the cat goes home",
    "the dog sees the dog and a dog then a cat and a home then the dog again and again ok",
    "home",
    "a cat",
    "again again again",
]


@pytest.fixture(scope="module", params=FORMS, ids=str)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return PretrainedStore(tmp_path_factory.mktemp("pretrained"), num_versions=1, **request.param)


def load(store: PretrainedStore, version: int = 1, **fields: Any) -> LoadedVersion:
    return load_version(store.settings(version, **fields), version, None, ThreadPoolExecutor(1))


async def answer_all(loaded: LoadedVersion, prompts: list[list[int]], options: Any) -> list[str]:
    engine = loaded.engine
    assert engine is not None
    streams = [engine.submit(one, asked) for one, asked in zip(prompts, options, strict=True)]
    texts = []
    for stream in streams:
        text, piece = "", await stream.next_piece()
        while not piece.is_last:
            text, piece = text + piece.text, await stream.next_piece()
        texts.append(text + piece.text)
    return texts


def test_each_text_is_the_offline_text_in_any_company(store: PretrainedStore) -> None:
    loaded, offline = load(store, num_slots=3), store.bundle()
    prompts = find_prompts(offline)
    options = [
        AnswerOptions(20 if number % 2 else 9, TokenSampling(0.9 * (number % 3 == 2), 0.9, number))
        for number in range(len(TEXTS))
    ]
    codes = [prompts.encode(text, "prompt") for text in TEXTS]
    found = asyncio.run(answer_all(loaded, codes, options))
    expected = [complete(offline, *asked) for asked in zip(TEXTS, options, strict=True)]
    assert found == [one.text for one in expected]
    assert len(set(found)) > 4
    assert loaded.engine is not None
    assert max(loaded.engine.pass_sizes) == 3


def test_an_answer_ends_where_the_generation_config_says(tmp_path: Path) -> None:
    """As of Llama 3, whose turns end with another token than its texts."""
    options = AnswerOptions(20)
    whole = complete(PretrainedStore(tmp_path / "one", num_versions=1).bundle(), TEXTS[0], options)
    end = whole.codes[3]
    generation = {"eos_token_id": [END_CODE, end], "temperature": 0.1}
    other = PretrainedStore(tmp_path / "two", num_versions=1, generation=generation)
    expected = whole.codes[: whole.codes.index(end) + 1]
    assert len(expected) < len(whole.codes)
    found = complete(other.bundle(), TEXTS[0], options)
    assert (found.codes, found.finish_reason) == (expected, "stop")
    loaded = load(other)
    codes = find_prompts(other.bundle()).encode(TEXTS[0], "prompt")
    assert asyncio.run(answer_all(loaded, [codes], [options])) == [found.text]


def test_a_version_whose_golden_prompts_differ_is_refused(store: PretrainedStore) -> None:
    with pytest.raises(CheckpointError, match="golden"):
        load(store, 2)
    assert [len(one["answer"]) > 0 for one in store.bundle().golden["prompts"]] == [True] * 4


def test_prompt_and_answer_have_the_length_that_the_endpoint_allows(store: PretrainedStore) -> None:
    engine = load(store).engine
    assert engine is not None
    assert engine.max_tokens == LENGTH
    longer = load(store, length=60).engine
    assert longer is not None
    assert longer.max_tokens == 60
    # More than the network has positions; the version is refused, and the replica lives.
    with pytest.raises(SpecError, match="65 tokens are more than the 64 positions"):
        load(store, length=65)


def test_a_conversation_begins_with_its_template_and_a_document_with_its_end(
    tmp_path: Path,
) -> None:
    chat, plain = (
        PretrainedStore(tmp_path / str(is_chat), is_chat, 1).bundle() for is_chat in (True, False)
    )
    assert find_prompts(plain).put_beginning([7]) == [1, 7]
    assert find_prompts(chat).put_beginning([7]) == [7]
    # What is written like a special token is one: a client may write the template itself.
    talk = [{"role": "user", "content": "the cat"}]
    text = "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    codes = find_prompts(chat).encode(text, "prompt")
    assert (
        codes
        == find_prompts(chat).encode_messages(talk, "messages")
        == [0, 3, 6, 7, 8, 1, 6, 0, 4, 6]
    )
    assert complete(chat, talk, AnswerOptions(9)) == complete(chat, text, AnswerOptions(9))
    # A model of documents answers messages too, if its folder has a template.
    assert find_prompts(plain).encode_messages(talk, "messages") == codes
    for empty, prompts in ((" ", find_prompts(chat)), ("", find_prompts(chat))):
        with pytest.raises(DataError, match="it has no tokens"):
            prompts.encode(empty, "prompt")
