"""Specs of language models: what they mean, and what does not go with them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from raydc import spec as specs
from raydc.errors import SpecError
from raydc.spec import from_dict, resolve
from raydc.spec.language import rows_per_pass

GOOD: dict[str, Any] = {
    "name": "words",
    "data": {"source": "texts", "task": "language_modelling"},
    "model": {"name": "decoder"},
}
TABLE: dict[str, Any] = {
    "name": "rows",
    "data": {"source": "rows.csv"},
    "model": {"name": "linear"},
}


def changed(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    found: Any = copy.deepcopy(base)
    *parts, last = path.split(".")
    section = found
    for part in parts:
        section = section.setdefault(part, {})
    section[last] = value
    return dict(found)


def test_defaults_of_a_language_model() -> None:
    found = resolve(from_dict(GOOD))
    assert (found.data.target, found.train.metric, found.train.mode) == (
        "text",
        "perplexity",
        "min",
    )
    assert (found.data.blocks.length, found.data.blocks.documents) == (256, "file")
    # What is written out can be read again.
    again = resolve(from_dict(specs.to_dict(found)))
    assert again == found
    assert resolve(from_dict(changed(GOOD, "data.target", "body"))).data.target == "body"
    assert resolve(from_dict(TABLE)).data.target == "label"


@pytest.mark.parametrize(
    ("base", "path", "value", "message"),
    [
        (GOOD, "model", {"name": "linear"}, "linear is not for language_modelling"),
        (GOOD, "model", {"name": "gru"}, "gru is not for language_modelling"),
        (GOOD, "model", {"builder": "a:b"}, "a builder is not for language_modelling"),
        (TABLE, "model", {"name": "decoder"}, "decoder is for data.task: language_modelling"),
        (TABLE, "data.blocks", {"length": 32}, "blocks are for data.task: language_modelling"),
        (TABLE, "data.format", "text", "files of text are for data.task: language_modelling"),
        (GOOD, "serve.max_batch_size", 3, "serve.max_batch_size: it is about rows"),
        (GOOD, "serve.optimize", "auto", "serve.optimize: it is about rows"),
        (GOOD, "serve.max_request_rows", 3, "serve.max_request_rows: it is about rows"),
        (GOOD, "serve.generation.slots", 0, "serve.generation.slots"),
        (GOOD, "serve.generation.timeout_s", 3601, "serve.generation.timeout_s"),
        (GOOD, "serve.generation.length", 9, "a decoder from scratch knows data.blocks.length"),
        (GOOD, "serve.engine", "vllm", "vLLM knows pretrained decoders only"),
        (GOOD, "serve.engine", "transformers", "serve.engine"),
        (GOOD, "serve.generation.precision", "bf16", "engine raydc computes with fp32"),
        (TABLE, "serve.engine", "vllm", "engine is for data.task: language_modelling"),
        (TABLE, "serve.generation.slots", 3, "generation is for data.task: language_modelling"),
        (GOOD, "model.freeze", ["body"], "all weights of a decoder train"),
        (GOOD, "model.width", 100, "width 100 is not a multiple of twice the heads, 8"),
        (GOOD, "data.augment", {"horizontal_flip": True}, "data.augment: it is not for"),
        (GOOD, "data.query", "q", "data.query: it is not for language_modelling"),
        (GOOD, "data.classes", ["a", "b"], "data.classes: it is not for language_modelling"),
        (GOOD, "data.features.exclude", ["a"], "reads the text of 'text' only"),
        (GOOD, "data.features.text", {"max_tokens": 9}, "documents are not cut"),
        (GOOD, "data.blocks", {"end_token": "</s>"}, "have an end of their own"),
        (GOOD, "data.blocks", {"length": 1}, "data.blocks.length"),
        (GOOD, "data.clean.missing", "drop", "data.clean.missing: it is not for"),
        (GOOD, "data.clean.on_error", "drop", "data.clean.on_error: it is not for"),
        (GOOD, "data.split", {"by": "stratified"}, "there are no classes to stratify by"),
        (GOOD, "train.loss", {"name": "focal"}, "the cross entropy of each token"),
        (GOOD, "train.metric", "accuracy", "'accuracy' is not a metric of language_modelling"),
        (GOOD, "train.metrics", ["a:b"], "functions of your own are not for"),
        (GOOD, "train.sampling", {"name": "balanced"}, "rows are sampled by class, and texts"),
        (GOOD, "train.threshold", {"name": "f1"}, "a threshold is for classes and labels"),
        (
            GOOD,
            "data.features.text",
            {"tokenizer": "t.json", "vocabulary": 300},
            "the tokenizer has its own",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    base: dict[str, Any], path: str, value: Any, message: str
) -> None:
    from_dict(base)
    with pytest.raises(SpecError) as caught:
        from_dict(changed(base, path, value))
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


def test_vllm_takes_its_precision_and_whole_gpus() -> None:
    pretrained = {**GOOD, "model": {"name": "huggingface", "path": "base"}}
    section: dict[str, Any] = {"engine": "vllm", "generation": {"precision": "bf16"}}
    for num_gpus in (0, 0.5, 1, 2):
        section["ray_actor_options"] = {"num_gpus": num_gpus}
        found = from_dict({**pretrained, "serve": section}).serve
        assert found is not None
        assert (found.engine, found.generation.precision) == ("vllm", "bf16")
    section["ray_actor_options"] = {"num_gpus": 1.5}
    with pytest.raises(SpecError, match=r"1\.5 GPUs are no whole number of them"):
        from_dict({**pretrained, "serve": section})


@pytest.mark.parametrize(
    ("length", "num_codes", "expected"),
    [(256, 8000, 32), (256, 65536, 32), (256, 151_936, 13), (65536, 8000, 1)],
)
def test_rows_of_a_pass_fit_with_the_scores_of_all_codes(
    length: int, num_codes: int, expected: int
) -> None:
    assert rows_per_pass(length, num_codes) == expected
