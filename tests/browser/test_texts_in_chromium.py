"""The page of a language model: a text goes on as its endpoint says, and errors are shown."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from chromium import PHONE_WIDTH, Browser
from language_models import NAME, write_language_bundle
from pretrained_models import NAME as CHAT
from pretrained_models import PretrainedStore
from served import Served

from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.registry import Registry
from raydc.storage import Storage


@pytest.fixture(scope="module")
def texts(store: Storage) -> Iterator[Served]:
    made = store / "made-texts"
    write_language_bundle(made)
    Registry(store).register(NAME, made, {"run": NAME, "metrics": {"perplexity": 12.5}})
    with Served(store, NAME).running() as endpoint:
        yield endpoint


def put(browser: Browser, name: str, text: str) -> None:
    field = browser.one(f"#{name}")
    field.clear()
    field.send_keys(text)


def wait_for_tokens(browser: Browser) -> str:
    return browser.text("#tokens")


def test_a_text_goes_on_as_the_endpoint_says(texts: Served, browser: Browser) -> None:
    browser.open(texts.url)
    assert browser.text("#summary").startswith("Continues texts, token by token")
    assert "independent of others" in browser.text("#facts")
    asked = {"prompt": "the cat sat", "max_tokens": 20, "temperature": 0.7, "seed": 5}
    for name, value in asked.items():
        put(browser, name.replace("_", "-"), str(value))
    browser.one("#predict").click()
    assert "20 tokens" in wait_for_tokens(browser)
    body = {"model": NAME, **asked}
    posted = httpx.post(f"{texts.url}v1/completions", json=body).json()["choices"][0]["text"]
    # As the browser's own text, which leaves no space out.
    shown = browser.run("return document.querySelector('#text').textContent")
    assert shown == posted
    assert browser.text("#version") == "version 1"
    assert "first token after" in browser.text("#latency")
    browser.one("#command summary").click()
    command = browser.text("#command code")
    assert f"{texts.url}v1/completions" in command
    assert '"stream":true' in command
    assert browser.driver.get_log("browser") == [], "nothing was refused, and nothing failed"


def test_what_the_endpoint_refuses_is_shown(texts: Served, browser: Browser) -> None:
    browser.open(texts.url)
    put(browser, "max-tokens", "many")
    browser.one("#predict").click()
    assert "max_tokens: 'many' is not a whole number" in browser.text("#error")
    assert not browser.all("#text")


def test_the_page_of_a_language_model_fits_on_a_phone(texts: Served, browser: Browser) -> None:
    browser.open(texts.url, PHONE_WIDTH)
    put(browser, "max-tokens", "30")
    browser.one("#predict").click()
    wait_for_tokens(browser)
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [
        PHONE_WIDTH,
        PHONE_WIDTH,
    ]


def test_a_conversation_goes_on_with_its_answers(
    tmp_path_factory: pytest.TempPathFactory, browser: Browser
) -> None:
    made = PretrainedStore(tmp_path_factory.mktemp("chat"), num_versions=1)
    with Served(made.storage, CHAT).running() as endpoint:
        browser.open(endpoint.url)
        assert browser.text("#summary").startswith("Answers messages")
        talk: list[dict[str, str]] = []
        for content in ("the cat", "a dog"):
            talk.append({"role": "user", "content": content})
            expected = complete(made.bundle(), talk, AnswerOptions(6)).text
            for name, value in (("prompt", content), ("max-tokens", "6"), ("temperature", "0")):
                put(browser, name, value)
            browser.one("#predict").click()

            def shown(expected: str = expected) -> bool:
                script = "return [...document.querySelectorAll('#text')].map((e) => e.textContent)"
                return bool(browser.run(script) == [expected] and browser.all("#tokens"))

            browser.wait(shown, "the answer is shown")
            talk.append({"role": "assistant", "content": expected})
        browser.one("#again").click()
        assert browser.run("return document.querySelector('#prompt').value") == ""
        assert browser.driver.get_log("browser") == [], "nothing was refused, and nothing failed"
