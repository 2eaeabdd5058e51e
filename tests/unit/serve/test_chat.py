"""`/v1/chat/completions` over HTTP on both paths: OpenAI's client, streams, ends of turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from pretrained_models import LENGTH, NAME, TALKS, PretrainedStore
from served_language import LanguageServer, events_of

from raydc import client
from raydc.bundle.completion import Completion, complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.models.token_sampling import TokenSampling
from raydc.serve.settings import Traffic, TrafficShare

QUESTION = TALKS[1][:1]
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PretrainedStore:
    return PretrainedStore(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module", params=["direct", "serve"])
def server(request: pytest.FixtureRequest, store: PretrainedStore) -> Iterator[LanguageServer]:
    with LanguageServer(store.settings(auth="none"), request.param).running() as made:
        yield made


def ask(server: LanguageServer, **fields: Any) -> httpx.Response:
    body = {"model": NAME, "messages": QUESTION, **fields}
    return httpx.post(f"{server.url}{PATH}", json=body, timeout=60)


def offline(store: PretrainedStore, messages: Any, version: int = 1, **fields: Any) -> Completion:
    options = AnswerOptions(fields.pop("max_tokens", LENGTH // 2), TokenSampling(**fields))
    return complete(store.bundle(version), messages, options)


def ended(store: PretrainedStore, version: int = 1) -> tuple[int, Completion]:
    """A seed and an answer that ends with its turn, behind a few tokens."""
    for seed in range(100):
        found = offline(store, QUESTION, version, temperature=1.0, seed=seed)
        if found.finish_reason == "stop" and len(found.text) > 12:
            return seed, found
    raise AssertionError("no answer ends")


def test_an_answer_is_the_offline_answer_and_ends_with_its_turn(
    server: LanguageServer, store: PretrainedStore
) -> None:
    seed, expected = ended(store)
    answer = ask(server, temperature=1, seed=seed, max_completion_tokens=LENGTH // 2)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["object"], found["model"]) == ("chat.completion", f"{NAME}:1")
    assert found["id"].startswith("chatcmpl-")
    (choice,) = found["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": expected.text, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert "<|im_end|>" not in expected.text
    # The end of the turn is one of the tokens.
    assert found["usage"]["completion_tokens"] == len(expected.codes)
    assert found["usage"]["prompt_tokens"] == 13


def test_the_events_of_a_stream_are_the_answer(server: LanguageServer) -> None:
    asked = {"max_tokens": 14, "temperature": 1, "top_p": 0.9, "seed": 7}
    expected = ask(server, **asked).json()
    answer = ask(server, **asked, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    first, *parts, end, usage, done = events_of(answer.text)
    assert done == "[DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(part["choices"][0]["delta"]["content"] for part in parts)
    assert text == expected["choices"][0]["message"]["content"]
    assert end["choices"][0]["delta"] == {}
    assert end["choices"][0]["finish_reason"] == expected["choices"][0]["finish_reason"]
    assert all(one["object"] == "chat.completion.chunk" for one in (first, *parts, end, usage))
    assert all(one["usage"] is None for one in (first, *parts, end))
    assert (usage["choices"], usage["usage"]) == ([], expected["usage"])
    plain = events_of(ask(server, **asked, stream=True).text)
    assert not any("usage" in one for one in plain[:-1])


def test_openai_client_unchanged(server: LanguageServer, store: PretrainedStore) -> None:
    import openai

    made = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    talk = [{"role": "system", "content": "a cat"}, *TALKS[0], {"role": "user", "content": "ok"}]
    fields: Any = {"max_tokens": 10, "temperature": 0.9, "top_p": 0.8}
    tried = ((seed, offline(store, talk, seed=seed, **fields)) for seed in range(100))
    seed, expected = next(one for one in tried if len(set(one[1].text.split())) > 3)
    asked: Any = {"messages": talk, "seed": seed, **fields}
    whole = made.chat.completions.create(model=NAME, **asked)
    assert whole.choices[0].message.content == expected.text
    # An answer goes back with all fields that the client gives it.
    more = [*QUESTION, whole.choices[0].message.model_dump(), {"role": "user", "content": "then"}]
    longer = made.chat.completions.create(model=NAME, messages=more, temperature=0, max_tokens=1)
    assert whole.usage is not None
    assert longer.usage is not None
    assert longer.usage.prompt_tokens > 20
    parts = made.chat.completions.create(
        model=f"{NAME}:1", stream=True, stream_options={"include_usage": True}, **asked
    )
    found = list(parts)
    texts = [part.choices[0].delta.content or "" for part in found if part.choices]
    assert "".join(texts) == expected.text
    assert found[-1].usage == whole.usage
    words = expected.text.split()
    stop = next(one for one in words if one != words[0])
    stopped = made.chat.completions.create(model=NAME, stop=stop, **asked)
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == expected.text[: expected.text.index(stop)]
    parted = [
        {"role": "user", "content": [{"type": "text", "text": one} for one in ("the ", "cat")]}
    ]
    one = made.chat.completions.create(model=NAME, messages=parted, temperature=0, max_tokens=9)  # type: ignore[arg-type]
    assert one.choices[0].message.content == offline(store, TALKS[0][:1], max_tokens=9).text
    with pytest.raises(openai.BadRequestError) as refused:
        made.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "a " * 99}])
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")


def test_the_client_of_raydc(server: LanguageServer, store: PretrainedStore) -> None:
    expected = offline(store, QUESTION, max_tokens=8)
    found = client.chat(server.url, NAME, QUESTION, max_tokens=8, temperature=0)
    assert found["choices"][0]["message"]["content"] == expected.text


def test_an_answer_that_is_left_open_has_all_the_room_there_is(server: LanguageServer) -> None:
    for seed in range(40):
        found = ask(server, temperature=2, seed=seed).json()
        if found["choices"][0]["finish_reason"] == "length":
            break
    assert found["usage"]["total_tokens"] == LENGTH


def test_a_version_beside_the_stable_one_answers_by_its_name(
    server: LanguageServer, store: PretrainedStore
) -> None:
    canary = Traffic(version=1, canary=TrafficShare(version=2, fraction=0.0))
    server.configure(store.settings(auth="none").model_copy(update={"traffic": canary}))
    for version in (1, 2):
        expected = offline(store, QUESTION, version, max_tokens=12)
        found = ask(server, model=f"{NAME}:{version}", max_tokens=12, temperature=0).json()
        assert found["choices"][0]["message"]["content"] == expected.text
        assert found["model"] == f"{NAME}:{version}"
    server.configure(store.settings(auth="none"))


def test_the_document_describes_what_is_sent(server: LanguageServer) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    operation = document["paths"][PATH]["post"]
    (example,) = operation["requestBody"]["content"]["application/json"]["examples"].values()
    answer = httpx.post(f"{server.url}{PATH}", json=example["value"])
    for name, value in (("ChatRequest", example["value"]), ("ChatCompletion", answer.json())):
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(value)
    metadata = httpx.get(f"{server.url}/v2/models/{NAME}").json()
    assert metadata["parameters"]["chat"] is True


def test_a_template_that_refuses_messages_says_why(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    store = PretrainedStore(tmp_path_factory.mktemp("refusing"), num_versions=1, template=template)
    with LanguageServer(store.settings(auth="none")).running() as server:
        refused = ask(server, messages=[{"role": "system", "content": "a"}, *QUESTION])
        assert refused.status_code == 400
        assert "messages: the chat template refuses it: no system" in refused.text
        assert json.loads(refused.text)["error"]["param"] == "messages"
        assert ask(server, max_tokens=3).status_code == 200
