"""The page in a real browser: what a person draws, drops or fills in, and the answer."""

from __future__ import annotations

import base64
import socket
from pathlib import Path

import httpx
import pytest
import small_models
from chromium import PHONE_WIDTH, Browser
from served import Served
from strokes import DIGITS

# Position and size on the pad, which must not matter to the model.
PLACES = [(0.1, 0.1, 0.8), (0.45, 0.05, 0.4), (0.2, 0.5, 0.45)]


@pytest.mark.parametrize("model", ["digits", "mnist"])
def test_pad_drawn_digit_gets_the_right_answer(
    model: str, browser: Browser, request: pytest.FixtureRequest
) -> None:
    endpoint: Served = request.getfixturevalue(model)
    browser.open(endpoint.url)
    assert browser.all("#invitation")
    answers = {}
    for number, (digit, strokes) in enumerate(DIGITS.items()):
        browser.draw(strokes, *PLACES[number % 3])
        answers[digit] = browser.answer()
        browser.clear()
    assert answers == {digit: digit for digit in DIGITS}


def test_answer_has_bars_version_latency_and_request_id(digits: Served, browser: Browser) -> None:
    browser.open(digits.url)
    browser.draw(DIGITS["3"])
    assert browser.answer() == "3"
    names = [one.text for one in browser.all(".bars .class")]
    shares = [float(one.text.strip("<% ")) for one in browser.all(".bars .share")]
    assert names[0] == "3"
    assert sorted(names) == list("0123456789")
    assert shares == sorted(shares, reverse=True)
    filled, track = (one.size["width"] for one in (browser.one(".filled"), browser.one(".track")))
    assert filled == pytest.approx(track * shares[0] / 100, abs=2)
    assert browser.text("#version") == "version 1"
    assert browser.text("#latency").endswith(" ms")
    assert browser.text("#request-id")


def test_card_shows_facts_of_the_metadata(digits: Served, browser: Browser) -> None:
    browser.open(digits.url)
    metadata = httpx.get(f"{digits.url}v2/models/digits").json()
    assert browser.text("h1") == browser.driver.title == "digits"
    card = browser.text("#facts")
    for fact in (
        "classification of digit",
        "cnn, ",
        "as trained",
        "0.97 accuracy",
        "340 rows",
        "digits, step 100",
        "alias production",
    ):
        assert fact in card
    assert metadata["parameters"]["digest"] in card


def test_pad_draws_with_keys(digits: Served, browser: Browser) -> None:
    from selenium.webdriver import Keys

    browser.open(digits.url)
    pad = browser.one("#pad")
    pad.send_keys(Keys.ARROW_UP * 7, Keys.SPACE, Keys.ARROW_DOWN * 14, Keys.SPACE)
    assert browser.answer() == "1"
    pad.send_keys(Keys.DELETE)
    browser.wait(lambda: not browser.all("#label"), "an empty pad")


def test_pad_undo_removes_one_stroke(digits: Served, browser: Browser) -> None:
    browser.open(digits.url)
    seen = (
        "return [...document.querySelector('#seen').getContext('2d').getImageData(0, 0, 8, 8).data]"
    )
    blank = browser.run(seen)
    browser.draw(DIGITS["4"][:1])
    one_stroke = browser.run(seen)
    browser.draw(DIGITS["4"][1:])
    assert browser.answer() == "4"
    browser.one("#undo").click()
    assert browser.run(seen) == one_stroke != blank
    browser.one("#undo").click()
    assert browser.run(seen) == blank
    assert not browser.one("#undo").is_enabled()


@pytest.mark.parametrize("model", ["digits", "photos"])
def test_file_is_sent_unchanged(
    model: str, browser: Browser, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    endpoint: Served = request.getfixturevalue(model)
    content = base64.b64decode(small_models.picture_rows(1)[0]["image"])
    (tmp_path / "one.png").write_bytes(content)
    posted = httpx.post(
        f"{endpoint.url}predict", content=content, headers={"content-type": "image/png"}
    ).json()
    browser.open(endpoint.url)
    assert bool(browser.all("#pad")) == (model == "digits"), "noise is not a drawing"
    browser.driver.find_element("css selector", "#file").send_keys(str(tmp_path / "one.png"))
    assert browser.answer() == posted["predictions"][0]["label"]
    assert browser.one(".preview").get_attribute("naturalWidth") == "8"
    assert "--data-binary '@one.png'" in browser.run(
        "return document.querySelector('#command code').textContent"
    )


def test_file_dropped_is_predicted(photos: Served, browser: Browser) -> None:
    browser.open(photos.url)
    browser.run(
        """
        const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const dropped = new DataTransfer();
        dropped.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
        const options = { dataTransfer: dropped, bubbles: true, cancelable: true };
        const event = new DragEvent("drop", options);
        document.querySelector(".zone").dispatchEvent(event);
        """,
        small_models.picture_rows(1)[0]["image"],
    )
    assert browser.answer() in small_models.CLASSES
    assert "dropped.png" in browser.text(".zone")


def test_row_form_predicts_like_the_endpoint(table: Served, browser: Browser) -> None:
    browser.open(table.url)
    assert [one.text for one in browser.all(".field option")] == ["cook", "nurse", "(missing)"]
    for row in (
        {"age": "61", "hours": "", "job": "nurse"},
        {"age": "20", "hours": "38.5", "job": ""},
    ):
        for name in ("age", "hours"):
            browser.fill(name, row[name])
        browser.one(f"[name=job] option[value='{row['job']}']").click()
        browser.run("document.querySelector('#answer').replaceChildren()")
        browser.one("#predict").click()
        given = {name: value for name, value in row.items() if value}
        posted = httpx.post(f"{table.url}predict", json=[given]).json()["predictions"][0]
        assert browser.answer() == posted["label"]
        assert browser.text("#score") == f"{100 * posted['score']:.1f} %"


def test_row_form_takes_an_image_and_a_text_beside_numbers(
    posts: Served, browser: Browser, tmp_path: Path
) -> None:
    (row,) = small_models.post_rows(1)
    (tmp_path / "one.png").write_bytes(base64.b64decode(row["photo"]))
    browser.open(posts.url)
    assert "from 3 columns" in browser.text("#summary")
    browser.fill("body", row["body"])
    browser.fill("hour", "7")
    browser.one("#predict").click()
    # An image cannot be filled in.
    assert "photo" in browser.text("#error")
    assert browser.one("[name=photo]").get_attribute("aria-invalid") == "true"
    browser.one("[name=photo]").send_keys(str(tmp_path / "one.png"))
    browser.one("#predict").click()
    given = {**row, "hour": 7}
    posted = httpx.post(f"{posts.url}predict", json=[given]).json()["predictions"][0]
    assert browser.answer() == posted["label"]
    assert browser.text("#score") == f"{100 * posted['score']:.1f} %"


def test_row_form_of_regression_shows_a_number(price: Served, browser: Browser) -> None:
    browser.open(price.url)
    assert browser.one("[name=size]").get_attribute("value") == "50"
    browser.one("#predict").click()
    value = httpx.post(f"{price.url}predict", json=[{"size": 50}]).json()["predictions"][0]["value"]
    assert float(browser.answer()) == pytest.approx(value, rel=1e-5)


def test_row_form_of_labels_shows_all_that_a_row_has(labels: Served, browser: Browser) -> None:
    browser.open(labels.url)
    assert ", any of 3 labels, from 3 columns." in browser.text("#summary")
    assert "Labels" in browser.text("#facts")
    said = set()
    for age in (18, 41, 90):
        row = {"age": age, "hours": 10, "job": "nurse"}
        for name in ("age", "hours"):
            browser.fill(name, str(row[name]))
        browser.one(f"[name=job] option[value='{row['job']}']").click()
        browser.one("#predict").click()
        answer = httpx.post(f"{labels.url}predict", json=[row]).json()["predictions"][0]
        expected = ", ".join(answer["labels"]) or "no label"
        assert browser.answer() == expected
        said.add(expected)
        ranked = sorted(answer["scores"].values(), reverse=True)
        shares = [one.text for one in browser.all(".bars .share")]
        assert shares == [f"{100 * score:.1f} %" for score in ranked]
    assert len(said) > 1


def test_row_form_wrong_value_marks_its_field(table: Served, browser: Browser) -> None:
    browser.open(table.url)
    browser.fill("age", "old")
    browser.one("#predict").click()
    message = browser.text("#error")
    assert "rows[0].age: 'old' is not a number" in message
    assert "HTTP 422 · request " in message
    assert browser.driver.switch_to.active_element.get_attribute("name") == "age"
    assert browser.one("[name=age]").get_attribute("aria-invalid") == "true"
    browser.fill("age", "41")
    browser.one("#predict").click()
    assert browser.answer() in small_models.CLASSES
    assert not browser.all("#error > *")
    assert browser.one("[name=age]").get_attribute("aria-invalid") is None


def test_badge_follows_another_version(table: Served, browser: Browser) -> None:
    browser.open(table.url)
    assert browser.text("#badge") == "version 1"
    table.promote(2)
    try:
        browser.one("#predict").click()
        browser.answer()
        browser.wait(lambda: browser.text("#badge") == "version 2", "the other version's card")
        assert "2 of table" in browser.text("#facts")
    finally:
        table.promote(1)


def test_token_is_requested_and_kept_in_the_tab(
    guarded: tuple[Served, str], browser: Browser
) -> None:
    endpoint, token = guarded

    def give(text: str) -> None:
        browser.one("#token").send_keys(text)
        browser.one("#token-form button").click()

    browser.open(endpoint.url)
    assert not browser.all("#main")
    assert not browser.all("#boot-error > *"), "nothing is wrong yet"
    assert browser.text("#summary") == "This model is not public."
    give("wrong")
    assert "the token is not one of this endpoint's" in browser.text("#boot-error")
    give(token)
    browser.one("#predict").click()
    assert browser.answer() in small_models.CLASSES
    assert not browser.all("#token-form, #boot-error > *")
    kept = browser.run(
        "return [JSON.stringify(sessionStorage), JSON.stringify(localStorage) + document.cookie]"
    )
    assert token in kept[0]
    assert token not in kept[1]
    assert token not in browser.run("return document.querySelector('#command code').textContent")
    browser.one("#forget").click()
    browser.one("#token-form")
    assert token not in browser.run("return JSON.stringify(sessionStorage)")


@pytest.mark.parametrize("model", ["digits", "photos", "table", "price"])
def test_page_on_a_phone_does_not_scroll_sideways(
    model: str, browser: Browser, request: pytest.FixtureRequest
) -> None:
    browser.open(request.getfixturevalue(model).url, PHONE_WIDTH)
    if model == "digits":
        browser.draw(DIGITS["8"])
        browser.answer()
    elif model == "table":
        browser.fill("age", "o" * 300)
        browser.one("#predict").click()
        browser.text("#error")
    for details in browser.all("details"):
        details.click()
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [
        PHONE_WIDTH,
        PHONE_WIDTH,
    ]


def test_page_loads_from_its_endpoint_only(digits: Served, browser: Browser) -> None:
    browser.open(digits.url)
    browser.draw(DIGITS["5"])
    browser.answer()
    loaded = browser.run(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert {url.removeprefix(digits.url) for url in loaded} >= {
        "page.css",
        "page.js",
        "ink.js",
        "healthz",
        "predict",
    }
    assert all(url.startswith(digits.url) for url in loaded)
    assert browser.driver.get_log("browser") == [], "nothing was refused, and nothing failed"


@pytest.mark.parametrize(
    ("attempt", "directive"),
    [
        ("new Image().src = `${elsewhere}one.png`", "img-src"),
        ("fetch(elsewhere).catch(() => null)", "connect-src"),
        (
            "const script = document.createElement('script'); script.text = 'gone = 1'",
            "require-trusted-types-for",
        ),
        ("document.body.setAttribute('style', 'color: red')", "style-src-attr"),
    ],
)
def test_policy_blocks_other_sites_and_scripts(
    attempt: str, directive: str, digits: Served, browser: Browser
) -> None:
    browser.open(digits.url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused = browser.driver.execute_async_script(
            f"""
            const done = arguments[1], elsewhere = arguments[0];
            const report = (event) => done(event.effectiveDirective);
            document.addEventListener("securitypolicyviolation", report);
            try {{ {attempt} }} catch {{ }}
            """,
            f"http://127.0.0.1:{listener.getsockname()[1]}/",
        )
        assert refused == directive
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
