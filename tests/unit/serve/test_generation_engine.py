"""Continuous batching: each text is its offline text in any company; order, ends and failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_models import LENGTH, TEXTS, block_of, prompts_of, write_language_bundle
from served_language import LanguageStore

from raydc import bundle
from raydc.bundle import Bundle
from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions, GrowingAnswer, NotFiniteError
from raydc.errors import ServeError
from raydc.features import PromptTexts, TokenBlock
from raydc.models.decoder_slots import make_slots
from raydc.models.token_sampling import TokenSampling
from raydc.serve.replica import loaded_version
from raydc.serve.replica.answer_stream import AnswerStream
from raydc.serve.replica.generation_engine import GenerationEngine
from raydc.storage import Storage

NUM_SLOTS = 4


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = Storage(str(tmp_path_factory.mktemp("engine") / "bundle"))
    write_language_bundle(folder)
    return bundle.load(folder)


async def read_all(stream: AnswerStream) -> tuple[str, int, str | None]:
    text = ""
    while True:
        piece = await stream.next_piece()
        text += piece.text
        if piece.is_last:
            return text, piece.num_tokens, piece.finish_reason


def engine_of(loaded: Bundle, num_slots: int = NUM_SLOTS) -> GenerationEngine:
    return GenerationEngine(make_slots(loaded.model, num_slots), prompts_of(loaded.features))


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(60):
            return await scenario()

    return asyncio.run(main())


def test_each_text_is_its_offline_text_alone_and_in_any_company(loaded: Bundle) -> None:
    block = block_of(loaded.features)
    choose = np.random.default_rng(0)
    asked = []
    for number in range(40):
        prompt = TEXTS[number % 4][: int(choose.integers(0, 20))]
        sampling = TokenSampling(0.0 if number % 2 else 1.0, 0.9, number)
        asked.append((prompt, AnswerOptions(int(choose.integers(1, 20)), sampling)))
    expected = []
    for prompt, options in asked:
        one = complete(loaded, prompt, options)
        expected.append((one.text, len(one.codes), one.finish_reason))

    async def scenario() -> None:
        engine = engine_of(loaded)
        streams = [engine.submit(block.encode(text, ""), options) for text, options in asked]
        assert await asyncio.gather(*map(read_all, streams)) == expected
        # They did share passes, and no pass had more than the slots.
        assert max(engine.pass_sizes) == NUM_SLOTS
        alone = engine.submit(block.encode(asked[7][0], ""), asked[7][1])
        assert await read_all(alone) == expected[7]

    run(scenario)


@dataclass
class ScriptedSlots:
    """Slots whose next code is the last one plus one; notes what they are asked to do."""

    num_slots: int = 2
    max_tokens: int = LENGTH
    chunk_tokens: int = 4
    rows_per_pass: int = 2
    calls: list[Any] = field(default_factory=list)
    # The last code of each part of a prompt that was read.
    last_codes: list[int] = field(default_factory=list)
    cleared: list[int] = field(default_factory=list)
    fail_at: int = -1
    nan_code: int = -1
    is_lost: bool = False
    begun: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)

    def prefill(self, slot: int, codes: Sequence[int], start: int) -> np.ndarray[Any, Any]:
        self.begun.set()
        assert self.gate.wait(30)
        self.calls.append(("read", slot, start))
        self.last_codes.append(codes[-1])
        return self._scores(codes[-1])

    def step(self, codes: Mapping[int, int]) -> np.ndarray[Any, Any]:
        self.calls.append(("step", tuple(codes)))
        if len(self.calls) == self.fail_at:
            raise RuntimeError("no memory")
        return np.stack([self._scores(codes.get(slot, 0)) for slot in range(self.num_slots)])

    def clear(self, slot: int) -> None:
        self.cleared.append(slot)
        if self.is_lost:
            raise RuntimeError("the device is lost")

    def _scores(self, code: int) -> np.ndarray[Any, Any]:
        scores = np.zeros(301, dtype=np.float32)
        scores[code + 1] = np.nan if code + 1 == self.nan_code else 1.0
        return scores


BLOCK = TokenBlock(301, LENGTH, 300)


def scripted(slots: ScriptedSlots, prompts: list[str], max_tokens: int) -> Any:
    """Texts or errors of some prompts that are there before the first pass."""

    async def scenario() -> Any:
        engine = GenerationEngine(slots, PromptTexts(BLOCK))
        options = AnswerOptions(max_tokens)
        streams = [engine.submit(BLOCK.encode(prompt, ""), options) for prompt in prompts]
        slots.gate.set()
        return await asyncio.gather(*map(read_all, streams), return_exceptions=True)

    return run(scenario)


def test_a_long_prompt_is_read_in_chunks_between_the_tokens_of_others() -> None:
    slots = ScriptedSlots()
    found = scripted(slots, ["a", "z" * 10], 6)
    assert [one[0] for one in found] == ["bcdefg", "{|}~\x7f\ufffd"]
    # The first grows from its first round on, while the second reads three chunks.
    assert slots.calls[:6] == [
        ("read", 0, 0),
        ("step", (0,)),
        ("read", 1, 0),
        ("step", (0,)),
        ("read", 1, 4),
        ("step", (0,)),
    ]


def test_slots_go_to_those_who_have_waited_longest() -> None:
    slots = ScriptedSlots()
    found = scripted(slots, list("acegikmo"), 3)
    assert [text for text, *_ in found] == [
        "bcd", "def", "fgh", "hij", "jkl", "lmn", "nop", "pqr"
    ]  # fmt: skip
    # The order of the passes: the readers may be woken in any order.
    assert bytes(slots.last_codes).decode() == "acegikmo"


def test_a_cancelled_answer_gives_its_slot_to_the_next() -> None:
    slots = ScriptedSlots(num_slots=1)

    async def scenario() -> None:
        engine = GenerationEngine(slots, PromptTexts(BLOCK))
        first, second, third = (
            engine.submit(BLOCK.encode(one, ""), AnswerOptions(30)) for one in "abc"
        )
        assert await asyncio.to_thread(slots.begun.wait, 30)
        first.cancel()
        # One that waits leaves as well.
        second.cancel()
        slots.gate.set()
        assert (await read_all(third))[0].startswith("defg")

    run(scenario)
    steps = [call for call in slots.calls if call[0] == "step"]
    # The first ends with the round in which it is; the third has all of its own.
    assert len(steps) == 1 + 29
    assert sum(call[0] == "read" for call in slots.calls) == 2


def test_a_pass_that_fails_ends_its_answers_and_no_others() -> None:
    slots = ScriptedSlots(fail_at=4)
    found = scripted(slots, ["a", "c", "e"], 5)
    assert [str(one) for one in found[:2]] == ["no memory", "no memory"]
    assert found[2] == ("fghij", 5, "length")
    assert sorted(slots.cleared) == [0, 1]


def test_slots_that_cannot_be_cleared_leave_nobody_waiting() -> None:
    slots = ScriptedSlots(fail_at=4, is_lost=True)
    found = scripted(slots, ["a", "c", "e"], 5)
    assert [str(one) for one in found[:2]] == ["no memory", "no memory"]
    assert found[2] == ("fghij", 5, "length")


def test_text_that_fails_ends_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    add = GrowingAnswer.add

    def fail_at_d(answer: GrowingAnswer, scores_V: np.ndarray[Any, Any]) -> str:
        if scores_V.argmax() == ord("d"):
            raise RuntimeError("no such text")
        return add(answer, scores_V)

    monkeypatch.setattr(GrowingAnswer, "add", fail_at_d)
    found = scripted(ScriptedSlots(), ["a", "m"], 5)
    assert str(found[0]) == "no such text"
    assert found[1] == ("nopqr", 5, "length")


def test_scores_that_are_not_finite_end_one_answer() -> None:
    slots = ScriptedSlots(nan_code=ord("d"))
    found = scripted(slots, ["a", "m"], 5)
    assert isinstance(found[0], NotFiniteError)
    assert found[1] == ("nopqr", 5, "length")
    assert slots.cleared == [0]


def test_a_part_of_a_prompt_that_is_not_finite_stays_in_no_slot() -> None:
    slots = ScriptedSlots(nan_code=ord("d"))
    found = scripted(slots, ["abczzzzz", "m"], 5)
    assert isinstance(found[0], NotFiniteError)
    assert found[1] == ("nopqr", 5, "length")
    assert slots.cleared == [0]
    # Its second chunk was not read any more.
    assert ("read", 0, 4) not in slots.calls


def test_the_thread_ends_with_the_work_and_starts_again() -> None:
    slots = ScriptedSlots()
    slots.gate.set()

    async def scenario() -> None:
        engine = GenerationEngine(slots, PromptTexts(BLOCK))
        for _ in range(2):
            assert await read_all(engine.submit([5], AnswerOptions(2))) == ("\x06\x07", 2, "length")
            while engine.loop.is_running:
                await asyncio.sleep(0.01)

    run(scenario)


def test_a_language_model_without_slots_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LanguageStore(tmp_path)
    monkeypatch.setattr(loaded_version, "has_slots", lambda network: False)
    with pytest.raises(ServeError, match="of a kind that is not served yet"):
        loaded_version.load_version(store.settings(), 1, None, ThreadPoolExecutor(1))
