"""Pairs of texts, from two columns to answers: the tokens and outputs are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_folders import WORDS, write_encoder
from in_process import body, post, request, run, settings_of
from prepared_here import prepare_here

from raydc import bundle, train
from raydc import spec as specs
from raydc.bundle import Bundle
from raydc.cli.early_checks import check_early
from raydc.data.shards import open_rows
from raydc.errors import DataError, SpecError
from raydc.evaluate import held_out_scores
from raydc.export import exported_folder
from raydc.features import Ragged, Record, Text
from raydc.registry import Registry
from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service
from raydc.storage import Storage

MAX_TOKENS = 20


def pairs_of(count: int) -> list[tuple[str, str, str]]:
    """A question, an answer of other words, and whether the two begin with one word."""
    choose, found = np.random.default_rng(0), []
    for number in range(count):
        first, second = (
            [WORDS[int(i)] for i in choose.integers(0, len(WORDS), length)]
            for length in choose.integers(1, 16, 2)
        )
        if number % 2:
            second[0] = first[0]
        same = "yes" if first[0] == second[0] else "no"
        found.append((" ".join(first), " ".join(second), same))
    return found


def spec_of(tmp_path: Path, folder: Path, header: str = "question,answer,same", **data: Any) -> Any:
    """The spec of pairs in a file whose columns are in the order of `header`."""
    lines = [header]
    for question, answer, same in pairs_of(160):
        cells = {"question": question, "answer": answer, "same": same}
        lines.append(",".join(cells[name] for name in header.split(",")))
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = {"question": "text", "answer": "text"}
    text = {"pair": ["question", "answer"], "max_tokens": MAX_TOKENS}
    section = {
        "source": str(tmp_path / "pairs.csv"),
        "target": "same",
        "features": {"columns": columns, "text": text},
        **data,
    }
    return specs.resolve(
        specs.from_dict(
            {
                "name": "pairs",
                "storage": str(tmp_path / "storage"),
                "data": section,
                "model": {"name": "huggingface", "path": str(folder)},
                "train": {"epochs": 2, "global_batch_size": 32, "learning_rate": 5e-3},
                "scaling": {"num_workers": 0},
            }
        )
    )


def trained(tmp_path: Path, spec: Any) -> tuple[Bundle, Any]:
    data = prepare_here(tmp_path, specs.to_dict(spec)["data"], spec.name)[0]
    run = Storage(spec.storage) / "runs" / spec.name
    train.run(spec, data, run, lambda _: None)
    return bundle.load(run / "model"), data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), type_vocab_size=2, pooling=None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> tuple[Bundle, Any]:
    place = tmp_path_factory.mktemp("pairs")
    return trained(place, spec_of(place, folder))


def tokenized(folder: Path, row: dict[str, Any]) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    return tokenizer(row["question"], row["answer"], truncation=True, return_tensors="pt")


def test_tokens_and_their_types_are_those_of_transformers(
    model: tuple[Bundle, Any], folder: Path
) -> None:
    features = model[0].features
    column = features.columns["question"]
    assert isinstance(column, Text)
    cut = 0
    for question, answer, _ in pairs_of(60):
        row = {"question": question, "answer": answer}
        x = features.apply({name: [text] for name, text in row.items()})
        assert isinstance(x, Record)
        assert [*x.fields] == ["question"]
        codes = x.fields["question"].values_N.tolist()  # type: ignore[union-attr]
        given = tokenized(folder, row)
        types = given["token_type_ids"][0].tolist()
        assert [code // column.num_codes for code in codes] == types
        assert [code % column.num_codes for code in codes] == given["input_ids"][0].tolist()
        assert set(types) == {0, 1}
        cut += len(codes) == MAX_TOKENS
    assert cut > 10


def test_outputs_are_those_of_the_network_with_types(
    model: tuple[Bundle, Any], folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    loaded, _ = model
    # Written only if the golden rows and other pairs have equal tokens and outputs.
    exported_folder.write(loaded, "huggingface", tmp_path / "out")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    is_other = False
    for question, answer, _ in pairs_of(10):
        given = tokenizer(question, answer, truncation=True, return_tensors="pt")
        columns = {"question": [question], "answer": [answer]}
        expected = loaded.forward(loaded.features.apply(columns))
        with torch.no_grad():
            found = network(**given).logits.numpy()
            plain = network(**{**given, "token_type_ids": 0 * given["token_type_ids"]}).logits
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        # The control: types are read.
        is_other |= not np.allclose(plain.numpy(), expected, rtol=1e-3, atol=1e-4)
    assert is_other


def test_a_pair_is_trained_evaluated_and_predicted(model: tuple[Bundle, Any]) -> None:
    loaded, data = model
    rows = open_rows(data.folder, "test")
    place = Storage(loaded.spec.storage) / "runs" / "pairs" / "model"
    scores = held_out_scores.run(place, data.folder, connect=lambda: None)
    assert scores["num_rows"] == len(rows)
    answers = loaded.predict_rows([{"question": "free now", "answer": "free lunch"}] * 2)
    assert answers[0] == answers[1]
    assert answers[0]["label"] in ("yes", "no")
    # The order of the two is part of a pair, and so is which words are whose.
    first, second = (
        loaded.forward(loaded.features.apply({"question": [one], "answer": [other]}))
        for one, other in (("free prize", "now"), ("free", "prize now"))
    )
    assert not np.array_equal(first, second)


def test_an_endpoint_answers_pairs_as_offline(model: tuple[Bundle, Any]) -> None:
    loaded, _ = model
    storage = Storage(loaded.spec.storage)
    Registry(storage).register("pairs", storage / "runs" / "pairs" / "model", {})
    rows = [{"question": one, "answer": other} for one, other, _ in pairs_of(6)]
    expected = loaded.predict_rows(rows)

    async def scenario(_: Service, routes: Routes) -> None:
        for asked, answers in ((rows, expected), (rows[3:4], expected[3:4])):
            found = await routes.respond(post("/predict", {"rows": asked}))
            assert found.status_code == 200, found.body
            assert body(found)["predictions"] == answers
        wrong = [rows[0], {"question": "free", "answer": 7}]
        refused = await routes.respond(post("/predict", {"rows": wrong}))
        assert refused.status_code == 422
        assert "rows[1].answer: 7 is not text" in body(refused)["error"]
        # What an encoder gives for a pair is no vector of one text.
        asked_one = {"model": "pairs", "input": "free prize"}
        assert (await routes.respond(post("/v1/embeddings", asked_one))).status_code == 404
        described = body(await routes.respond(request("GET", "/v2/models/pairs")))
        assert [one["name"] for one in described["inputs"]] == ["question", "answer"]

    run(settings_of(storage, model="pairs"), scenario)


@pytest.mark.parametrize("form", ["torch_export", "onnx"])
def test_a_graph_computes_pairs(model: tuple[Bundle, Any], tmp_path: Path, form: str) -> None:
    # Written only if its outputs are those of the model.
    exported_folder.write(model[0], form, tmp_path / "out")
    assert list((tmp_path / "out").iterdir())


def test_the_order_of_the_columns_of_a_file_does_not_matter(
    model: tuple[Bundle, Any], folder: Path, tmp_path: Path
) -> None:
    _, data = model
    spec = spec_of(tmp_path / "other", folder, header="same,answer,question")
    other = prepare_here(tmp_path, specs.to_dict(spec)["data"], spec.name)[0]
    first, second = (
        open_rows(one.folder, "train").gather(np.arange(20))[0] for one in (data, other)
    )
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    one, two = first.fields["question"], second.fields["question"]
    assert isinstance(one, Ragged)
    assert isinstance(two, Ragged)
    assert one.values_N.tobytes() == two.values_N.tobytes()


def test_a_missing_text_is_one_without_words(model: tuple[Bundle, Any]) -> None:
    features = model[0].features
    x = features.apply({"question": ["now", None, None], "answer": [None, "now", None]})
    assert isinstance(x, Record)
    lists = x.fields["question"]
    assert isinstance(lists, Ragged)
    assert lists.lengths.tolist() == [4, 4, 0]
    with pytest.raises(DataError, match=r"rows\[0\]\.answer: 5 is not text"):
        features.apply({"question": ["now"], "answer": [5]})


def test_a_value_of_pairs_and_an_architecture_without_types(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "distilbert", kind="distilbert", pooling=None)
    spec = spec_of(tmp_path, folder)
    lines = (tmp_path / "pairs.csv").read_text().replace(",yes", ",1.5").replace(",no", ",-1")
    (tmp_path / "pairs.csv").write_text(lines)
    value = specs.to_dict(spec)
    value["data"]["task"] = "regression"
    for name in ("metric", "mode"):
        value["train"].pop(name)
    loaded, _ = trained(tmp_path, specs.resolve(specs.from_dict(value)))
    exported_folder.write(loaded, "huggingface", tmp_path / "out")
    assert isinstance(loaded.predict_rows([{"question": "a", "answer": "b"}])[0]["value"], float)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ({"pair": ["question", "question"]}, {}, "'question' is named twice"),
        ({"pair": ["question", "other"]}, {}, "'other' is no text"),
        ({}, {}, r"question, answer are several; .*data\.features\.text\.pair for two of them"),
    ],
)
def test_what_is_no_pair_is_refused(
    tmp_path: Path, folder: Path, text: dict[str, Any], columns: dict[str, str], message: str
) -> None:
    kinds = {"question": "text", "answer": "text", **columns}
    with pytest.raises(SpecError, match=message):
        spec_of(tmp_path, folder, features={"columns": kinds, "text": text})


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_a_pair_needs_room_for_a_token_of_each_text(
    tmp_path: Path, folder: Path, most: int
) -> None:
    text = {"pair": ["question", "answer"], "max_tokens": most}
    columns = {"question": "text", "answer": "text"}
    spec = spec_of(tmp_path, folder, features={"columns": columns, "text": text})
    message = rf"a pair has 3 special tokens, so that {most} token\(s\) leave no room"
    with pytest.raises(DataError, match=message):
        check_early(spec)
    text["max_tokens"] = 5
    check_early(spec_of(tmp_path, folder, features={"columns": columns, "text": text}))


@pytest.mark.parametrize("most", [1, 2])
def test_a_text_needs_room_for_a_token(tmp_path: Path, folder: Path, most: int) -> None:
    columns, other = {"question": "text"}, ["answer"]
    text = {"max_tokens": most}
    given = {"columns": columns, "exclude": other, "text": text}
    message = rf"a text has 2 special tokens, so that {most} token\(s\) leave no room"
    with pytest.raises(DataError, match=message):
        check_early(spec_of(tmp_path, folder, features=given))
    text["max_tokens"] = 3
    check_early(spec_of(tmp_path, folder, features=given))


def test_types_of_tokens_beyond_the_second_are_refused(tmp_path: Path, folder: Path) -> None:
    """As of XLNet, whose last token has a type of its own."""
    import tokenizers

    spec = spec_of(tmp_path, folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [SEP] [CLS]:2",
        pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    value = specs.to_dict(spec)
    value["data"]["features"]["text"]["tokenizer"] = str(path)
    with pytest.raises(DataError, match=r"the types 0 to 2, and only 0 and 1 can be read"):
        check_early(specs.resolve(specs.from_dict(value)))


def test_a_pair_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    text = {"pair": ["a", "b"]}
    data = {
        "source": "a.csv",
        "target": "c",
        "features": {"columns": {"a": "text", "b": "text"}, "text": text},
    }
    with pytest.raises(SpecError, match="a pair is joined by a tokenizer"):
        specs.from_dict({"name": "a", "data": data, "model": {"name": "text_cnn"}})
    assert tmp_path.exists()
