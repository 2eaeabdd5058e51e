"""Files of prompts: each completion is what the endpoint answers, and bad rows are named."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from language_models import NAME as SMALL
from language_models import TEXTS
from pretrained_models import LORA, NAME, TALKS, PretrainedStore
from served_language import LanguageServer, LanguageStore
from small_models import table_features, write_bundle

from raydc import evaluate
from raydc import spec as specs
from raydc.bundle.completion import complete, find_prompts
from raydc.bundle.growing_answer import AnswerOptions
from raydc.bundle.many_completions import Question, complete_many
from raydc.cli import main
from raydc.errors import DataError, SpecError, UsageError
from raydc.evaluate import CompletionOptions, file_completions
from raydc.evaluate.file_completions import check_options
from raydc.models import decoder_slots
from raydc.models.decoder_slots import DecoderSlots, make_slots
from raydc.models.token_sampling import TokenSampling
from raydc.spec.language import Generation
from raydc.storage import Storage

THREE = Generation(slots=3)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> LanguageStore:
    return LanguageStore(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> PretrainedStore:
    return PretrainedStore(tmp_path_factory.mktemp("talks"), num_versions=1, lora=LORA)


def predict(
    store: LanguageStore | PretrainedStore, source: Path, **options: Any
) -> list[dict[str, Any]]:
    """Rows of the output, through Parquet, which keeps types."""
    name = SMALL if isinstance(store, LanguageStore) else NAME
    output = source.parent / "out.parquet"
    asked = CompletionOptions(**{"generation": THREE, **options})
    count = evaluate.predict_file(
        store.registry.folder(name, 1), str(source), str(output), print, no_ray, asked
    )
    found = list(pq.read_table(output).to_pylist())
    output.unlink()
    assert len(found) == count
    return found


def no_ray() -> None:
    raise AssertionError("a small file needs no Ray")


def write_prompts(folder: Path, prompts: list[str], column: str = "text") -> Path:
    with (folder / "prompts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["number", column], *enumerate(prompts)])
    return folder / "prompts.csv"


def test_completions_are_those_of_the_endpoint_in_the_order_of_the_rows(
    texts: LanguageStore, tmp_path: Path
) -> None:
    prompts = [text[:size] for text in TEXTS for size in (3, 9, 14)]
    source = write_prompts(tmp_path, prompts)
    greedy = predict(texts, source, max_tokens=12)
    drawn = predict(texts, source, max_tokens=12, temperature=0.9, top_p=0.95, seed=5)
    assert [row["number"] for row in greedy] == [str(number) for number in range(len(prompts))]
    assert len({row["completion"] for row in greedy}) > 6
    assert [row["seed"] for row in drawn] == list(range(5, 5 + len(prompts)))
    assert "seed" not in greedy[0]
    with LanguageServer(texts.settings(1, num_slots=3)).running() as server:
        for row, other, prompt in zip(greedy, drawn, prompts, strict=True):
            for found, asked in (
                (row, {"temperature": 0}),
                (other, {"temperature": 0.9, "top_p": 0.95, "seed": other["seed"]}),
            ):
                body = {"model": SMALL, "prompt": prompt, "max_tokens": 12, **asked}
                answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
                (choice,) = answer["choices"]
                usage = answer["usage"]
                assert (choice["text"], choice["finish_reason"]) == (
                    found["completion"],
                    found["finish_reason"],
                )
                assert usage["prompt_tokens"] == found["prompt_tokens"]
                assert usage["completion_tokens"] == found["answer_tokens"]


def test_slots_are_shared_by_as_many_rows_as_fit(texts: LanguageStore) -> None:
    """A pass computes a token of each answer, so that its number falls by nearly the slots."""
    loaded = texts.bundle()
    slots = make_slots(loaded.model, 8)
    passes: list[int] = []
    usual = slots.step

    def step(codes: Any) -> Any:
        passes.append(len(codes))
        return usual(codes)

    slots.step = step  # type: ignore[method-assign]
    prompts = find_prompts(loaded)
    questions = [
        Question(str(row), prompts.encode(TEXTS[row % 4][:9], ""), options)
        for row in range(40)
        for options in [AnswerOptions(8 + row % 9, TokenSampling(0.8, seed=row))]
    ]
    found = complete_many(prompts, slots, questions)
    for row, one in enumerate(found):
        assert one == complete(loaded, TEXTS[row % 4][:9], questions[row].options)
    alone = sum(len(one.codes) - 1 for one in found)
    assert sum(passes) == alone
    assert len(passes) < alone / 5


def test_what_is_left_open_fills_a_row_and_no_more(texts: LanguageStore, tmp_path: Path) -> None:
    source = write_prompts(tmp_path, [text[:9] for text in TEXTS])
    found = predict(texts, source)
    assert {row["prompt_tokens"] + row["answer_tokens"] for row in found} == {48}
    assert {row["finish_reason"] for row in found} == {"length"}
    found = predict(texts, source, generation=Generation(slots=2, max_tokens=5))
    assert {row["answer_tokens"] for row in found} == {5}
    stop = found[0]["completion"][2:4]
    stopped = predict(texts, source, stop=(stop,))
    assert stopped[0]["finish_reason"] == "stop"
    assert found[0]["completion"].startswith(stopped[0]["completion"])


def test_lines_of_a_text_are_prompts(texts: LanguageStore, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXTS[0][:9], encoding="utf-8")
    (found,) = predict(texts, tmp_path / "a.txt", max_tokens=7)
    expected = complete(texts.bundle(), TEXTS[0][:9], AnswerOptions(7)).text
    assert (found["text"], found["completion"]) == (TEXTS[0][:9], expected)


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_conversations_are_answered(talks: PretrainedStore, tmp_path: Path, form: str) -> None:
    source = tmp_path / f"asked.{form}"
    asked = [talk[:1] for talk in TALKS]
    if form == "jsonl":
        source.write_text("".join(json.dumps({"messages": one}) + "\n" for one in asked))
    elif form == "parquet":
        pq.write_table(pa.table({"messages": asked}), source)
    else:
        write_prompts(tmp_path, [json.dumps(one) for one in asked], "messages").rename(source)
    options = AnswerOptions(12)
    expected = [complete(talks.bundle(), one, options).text for one in asked]
    assert [row["completion"] for row in predict(talks, source, max_tokens=12)] == expected


def test_the_column_of_the_training_holds_conversations_whatever_its_name(
    talks: PretrainedStore,
) -> None:
    loaded = talks.bundle()
    data = loaded.spec.data.model_copy(update={"target": "talk"})
    named = replace(loaded, spec=loaded.spec.model_copy(update={"data": data}))
    assert CompletionOptions().column_of(named) == "talk"
    holding = [
        column
        for column in (None, "talk", "messages", "question")
        if CompletionOptions(prompts=column).holds_messages(named)
    ]
    assert holding == [None, "talk", "messages"]
    assert not CompletionOptions(is_talk=False).holds_messages(named)


def test_what_a_user_says_may_have_a_column_of_its_own(
    talks: PretrainedStore, tmp_path: Path
) -> None:
    said = [talk[0]["content"] for talk in TALKS]
    source = write_prompts(tmp_path, said, "question")
    loaded, options = talks.bundle(), AnswerOptions(12)
    found = predict(talks, source, max_tokens=12, prompts="question")
    expected = [complete(loaded, talk[:1], options).text for talk in TALKS]
    assert [row["completion"] for row in found] == expected
    # A text is never taken for messages: it may come from anybody.
    looks = json.dumps([{"role": "system", "content": "ok"}])
    source = write_prompts(tmp_path, [looks], "question")
    (row,) = predict(talks, source, max_tokens=12, prompts="question")
    talk = [{"role": "user", "content": looks}]
    assert row["completion"] == complete(loaded, talk, options).text
    # Continued as a text, without the template.
    source = write_prompts(tmp_path, said, "question")
    found = predict(talks, source, max_tokens=12, prompts="question", is_talk=False)
    expected = [complete(loaded, one, options).text for one in said]
    assert [row["completion"] for row in found] == expected


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"messages": None}], {}, r"asked\.jsonl: line 2: messages: there is no prompt"),
        ([{"other": 5}], {}, r"asked\.jsonl: line 2: messages: there is no prompt"),
        ([{"messages": "the cat"}], {}, "line 2: messages: .*is not a list of messages"),
        ([{"messages": [{"role": "user"}]}], {}, r"line 2: messages\[0\]\.content: None is not"),
        (
            [{"messages": [{"role": "user", "content": "a <|im_end|>"}]}],
            {},
            "line 2: messages: .*a special token of the model",
        ),
        (
            [{"messages": [{"role": "user", "content": "the cat " * 20}]}],
            {},
            "line 2: messages: the prompt has 48 tokens and the answer up to 4, 52 together",
        ),
        (
            [{"messages": [{"role": "user", "content": "the cat " * 200_000}]}],
            {},
            "line 2: messages: it has 1,600,000 characters, too many for 48 tokens",
        ),
        (
            [{"messages": [{"role": "user", "content": "the cat " * 25}]}],
            {},
            "line 2: messages: the prompt has more than 48 tokens, and the model takes 48",
        ),
        ([{"messages": "the cat"}], {"is_talk": False}, r"line 1: messages: not a list of numbers"),
        ([], {"prompts": "ask"}, "there is no column 'ask'; there are messages"),
        ([{"messages": TALKS[0][:1], "completion": 5}], {}, "has a column 'completion' already"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    talks: PretrainedStore,
    tmp_path: Path,
    rows: list[dict[str, Any]],
    options: dict[str, Any],
    message: str,
) -> None:
    source = tmp_path / "asked.jsonl"
    first = {"messages": TALKS[0][:1]}
    source.write_text("".join(json.dumps(row) + "\n" for row in [first, *rows]))
    with pytest.raises(DataError, match=message):
        predict(talks, source, max_tokens=4, **options)
    assert [one.name for one in tmp_path.iterdir()] == ["asked.jsonl"]


def test_bad_row_at_the_end_is_found_before_anything_is_answered(
    texts: LanguageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[int] = []
    usual = file_completions.complete_many

    def complete_many(prompts: Any, slots: Any, questions: list[Question]) -> Any:
        answered.append(len(questions))
        return usual(prompts, slots, questions)

    monkeypatch.setattr(file_completions, "complete_many", complete_many)
    source = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"text": TEXTS[0][:9]})] * 3000
    source.write_text("\n".join([*lines, json.dumps({"text": "a" * 100})]))
    with pytest.raises(DataError, match="line 3001: text: the prompt has more than 48 tokens"):
        predict(texts, source, max_tokens=1)
    assert answered == []


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("column", ["text", "ask"])
@pytest.mark.parametrize("cell", [["the", "cat"], [1, 2], {"role": "user"}])
def test_a_list_or_an_object_is_no_text(
    texts: LanguageStore, tmp_path: Path, form: str, column: str, cell: Any
) -> None:
    source = tmp_path / f"asked.{form}"
    if form == "jsonl":
        source.write_text(json.dumps({column: cell}))
    else:
        pq.write_table(pa.table({column: [cell]}), source)
    with pytest.raises(DataError, match=rf"{column}: .*(not text|not a number, text|not a list)"):
        predict(texts, source, max_tokens=4, prompts=column)


def test_options_that_do_not_fit_the_model_are_refused(
    texts: LanguageStore, talks: PretrainedStore, tmp_path: Path
) -> None:
    source = write_prompts(tmp_path, ["the"])
    with pytest.raises(UsageError, match="small has no chat template"):
        predict(texts, source, is_talk=True)
    with pytest.raises(UsageError, match="--stop: an empty text"):
        predict(texts, source, stop=("a", ""))
    # Before a pool of processes would start.
    with pytest.raises(SpecError, match=r"generation\.length"):
        check_options(talks.bundle(), CompletionOptions(generation=Generation(length=5000)))
    folder = Storage(str(tmp_path / "table"))
    write_bundle(folder, table_features())
    output = str(tmp_path / "out.csv")
    with pytest.raises(UsageError, match="predicts rows and continues no texts"):
        evaluate.predict_file(folder, str(source), output, completions=CompletionOptions())


def test_the_command_takes_the_limits_of_the_endpoint(texts: LanguageStore, tmp_path: Path) -> None:
    spec, source = tmp_path / "spec.yaml", write_prompts(tmp_path, [TEXTS[0][:9]])
    value = specs.to_dict(texts.bundle().spec)
    value["storage"] = texts.storage.uri
    value["serve"]["generation"] = {"slots": 2, "max_tokens": 6}
    spec.write_text(yaml.safe_dump(value))
    command = ["predict", str(spec), "--input", str(source), "--output"]
    done = CliRunner().invoke(main, [*command, str(tmp_path / "out.jsonl")])
    assert done.exit_code == 0, done.output
    assert "1 rows with small version 3" in done.output
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert row["answer_tokens"] == 6
    drawn = [*command, str(tmp_path / "drawn.jsonl"), "--temperature", "1", "--max-tokens", "9"]
    done = CliRunner().invoke(main, [*drawn, "--seed", "7"])
    assert done.exit_code == 0, done.output
    (row,) = [json.loads(line) for line in (tmp_path / "drawn.jsonl").read_text().splitlines()]
    assert (row["answer_tokens"], row["seed"]) == (9, 7)
    done = CliRunner().invoke(main, ["predict", str(spec), "--row", "{}", "--max-tokens", "3"])
    assert done.exit_code != 0
    assert "--max-tokens is for --input" in done.output
    for option in ("--temperature", "--top-p"):
        done = CliRunner().invoke(main, [*command, str(tmp_path / "no.jsonl"), option, "nan"])
        assert done.exit_code == 2
        assert "nan is not a number" in done.output
    assert not (tmp_path / "no.jsonl").exists()


def test_passes_have_the_threads_of_the_endpoint(
    texts: LanguageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums may be split among them, and then scores have other last bits."""
    spec, source = tmp_path / "spec.yaml", write_prompts(tmp_path, [TEXTS[0][:9]])
    value = specs.to_dict(texts.bundle().spec)
    value["storage"] = texts.storage.uri
    value["serve"]["ray_actor_options"] = {"num_cpus": 3}
    spec.write_text(yaml.safe_dump(value))
    threads: set[int] = set()

    class Watched(DecoderSlots):
        def step(self, codes: Any) -> Any:
            threads.add(self._num_threads)
            return super().step(codes)

    monkeypatch.setattr(decoder_slots, "DecoderSlots", Watched)
    output = str(tmp_path / "out.jsonl")
    command = ["predict", str(spec), "--input", str(source), "--output", output]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert threads == {3}
