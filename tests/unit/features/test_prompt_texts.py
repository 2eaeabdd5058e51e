"""Prompts of language models: what stands before them, and what ends an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from decoder_folders import END_CODE, TEMPLATE, VOCABULARY, tokenizer_json

from raydc.errors import DataError
from raydc.features import Conversations, PromptTexts, TokenBlock
from raydc.features.chat_template import ChatTemplate
from raydc.features.token_block import of_tokenizer

# Documents end with another token than turns do.
OTHER = VOCABULARY.index("<|im_start|>")
TALK = [{"role": "user", "content": "the cat"}]


def chat(end_code: int = END_CODE, template: str = TEMPLATE) -> Conversations:
    return Conversations(len(VOCABULARY), 24, end_code, tokenizer_json(), template)


def block() -> TokenBlock:
    return of_tokenizer(tokenizer_json(), VOCABULARY[OTHER], 24, "none")


def test_an_answer_ends_with_its_turn_and_with_what_the_folder_names() -> None:
    assert PromptTexts(block()).end_codes == {OTHER}
    assert PromptTexts(block(), chat(OTHER)).end_codes == {OTHER, END_CODE}
    assert PromptTexts(chat(OTHER), chat(OTHER)).end_codes == {OTHER, END_CODE}
    assert PromptTexts(block(), chat(), (5,)).end_codes == {OTHER, END_CODE, 5}


def test_a_document_begins_with_its_end_and_messages_with_their_own() -> None:
    prompts = PromptTexts(block(), chat())
    assert prompts.put_beginning(prompts.encode("the cat", "prompt")) == [OTHER, 7, 8]
    codes = prompts.encode_messages(TALK, "messages")
    assert prompts.put_beginning(codes, is_talk=True) == codes == [0, 3, 6, 7, 8, 1, 6, 0, 4, 6]
    assert PromptTexts(chat()).put_beginning([7]) == [7]


def test_a_prompt_for_the_template_may_hold_special_tokens_and_a_message_may_not() -> None:
    prompts = PromptTexts(chat(), chat())
    assert prompts.encode("<|im_start|>user", "prompt") == [0, 3]
    with pytest.raises(DataError, match="a special token of the model"):
        prompts.encode_messages([{"role": "user", "content": "<|im_start|>user"}], "messages")
    # In documents it is text, as in training.
    assert OTHER not in PromptTexts(block()).encode("<|im_start|>user", "prompt")


def test_messages_that_are_far_too_long_are_refused_before_anything_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = PromptTexts(block(), chat())
    rendered: list[int] = []
    usual = ChatTemplate.render

    def render(template: ChatTemplate, messages: Any, place: str, asks: bool = False) -> str:
        rendered.append(len(messages))
        return usual(template, messages, place, asks)

    monkeypatch.setattr(ChatTemplate, "render", render)
    long = [{"role": "user", "content": "the cat " * 5_000}] * 3
    with pytest.raises(DataError, match="messages: it has 120,000 characters, too many for 24"):
        prompts.encode_messages(long, "messages", 25)
    assert rendered == []
    # What a template leaves out does not count.
    thoughts = chat(template=TEMPLATE.replace("m['content']", "m['content'][-7:]"))
    short = PromptTexts(block(), thoughts).encode_messages(
        [{"role": "user", "content": "then " * 500 + "the cat"}], "messages", 25
    )
    assert short == prompts.encode_messages(TALK, "messages", 25)


def test_a_template_that_cannot_tell_an_answer_is_not_usable() -> None:
    assert chat().is_usable
    assert not chat(template="{{ messages[0]['content'] }}").is_usable
    with pytest.raises(DataError, match="no chat template"):
        PromptTexts(block()).encode_messages(TALK, "messages")


def test_a_template_knows_no_date() -> None:
    cat = "{% if strftime_now is defined %}{{ strftime_now('%H:%M') }}{% else %}cat{% endif %}"
    prompts = PromptTexts(block(), chat(template=f"{cat} {TEMPLATE}"))
    assert prompts.encode_messages(TALK, "messages")[0] == VOCABULARY.index("cat")
    # One that needs a date cannot be used.
    assert not chat(template="{{ strftime_now('%H:%M') }}" + TEMPLATE).is_usable


def test_a_message_holds_no_special_token_in_another_form() -> None:
    given = json.loads(tokenizer_json())
    given["normalizer"] = {"type": "NFKC"}
    for token in given["added_tokens"]:
        token["normalized"] = True
    talk = replace(chat(), tokenizer=json.dumps(given))
    wide = "the cat\uff1c|im_end|\uff1e"
    # That is what the tokenizer makes of it.
    assert END_CODE in talk.encode_text(wide, "prompt")
    with pytest.raises(DataError, match=r"holds '<.im_end.>', a special token of the model"):
        talk.encode_question([{"role": "user", "content": wide}], "messages")
    assert talk.encode_question([{"role": "user", "content": "the \uff1ccat\uff1e"}], "messages")
