"""Language modelling: section `data.blocks`, and what it excludes elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from raydc.errors import Problem
from raydc.spec.base import Section
from raydc.spec.document import Path
from raydc.spec.feature_options import FeatureOptions, TextOptions
from raydc.spec.model_section import BODY
from raydc.spec.sequence_models import HuggingFace

if TYPE_CHECKING:
    from raydc.spec.sections import Serve, Spec

LANGUAGE: Literal["language_modelling"] = "language_modelling"
# Column of the documents in files of text, and the default target of the task.
TEXT = "text"
# Fields of `data` that say something about inputs, labels or rows of a table.
_NOT_READ = ("augment", "classes", "joins", "query", "windows")
# Fields of `serve` about rows, forward passes of rows, and images.
_ABOUT_ROWS = (
    "batch_wait_timeout_s",
    "max_batch_size",
    "max_request_pixels",
    "max_request_rows",
    "optimize",
)
_CLEANS = ("missing_values", "missing_target", "duplicates")
_TOKENS_PER_PASS = 8192
# So many scores of codes fit into memory: 2 GiB, for 65,536 codes those of all tokens of a pass.
_SCORES_PER_PASS = 2**29


def rows_per_pass(length: int, num_codes: int) -> int:
    """Rows of a forward pass without gradients, a function of the data set alone.

    Args:
        length: Tokens that a row predicts.
        num_codes: Codes of tokens, each of which has a score for each token.
    """
    num_tokens = min(_TOKENS_PER_PASS, _SCORES_PER_PASS // num_codes)
    return max(1, num_tokens // length)


class TokenBlocks(Section):
    """How documents become rows of tokens, for task: language_modelling."""

    length: Annotated[int, Field(ge=2, le=65536)] = Field(
        256,
        description="Tokens that a row predicts, each from those before it in its document. "
        "Documents stand one behind the other, so that all rows but the last are full; a document "
        "that reaches beyond a row goes on in the next one.",
    )
    documents: Literal["file", "paragraph", "line"] = Field(
        "file",
        description="What a document is in files of plain text: the `file`, a `paragraph` between "
        "blank lines, or a `line`. Splits take whole documents.",
    )
    end_token: str | None = Field(
        None,
        min_length=1,
        description="Token of `data.features.text.tokenizer` that ends a document and begins the "
        "next one. Default: that of a pretrained decoder, else a token of its own behind those of "
        "the tokenizer.",
    )


class Generation(Section):
    """How a language model continues texts."""

    slots: Annotated[int, Field(ge=1, le=256)] = Field(
        8,
        description="Answers that a replica computes at a time, one token of each in a pass. A "
        "pass always has all slots, so that no answer depends on the others; more requests wait.",
    )
    max_tokens: Annotated[int, Field(ge=1)] = Field(
        1024,
        description="Most tokens that a request may ask for. Prompt and answer together have at "
        "most `length` tokens.",
    )
    length: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Most tokens of a prompt and its answer together, for a pretrained decoder: up "
        "to its positions. Default: data.blocks.length. Each slot takes the memory of so many "
        "tokens.",
    )
    adapters: Annotated[int, Field(ge=0, le=1024)] = Field(
        0,
        description="Versions beside those of the traffic that a replica holds at a time, because "
        "requests name them as `model:version`: adapters (model.lora) of the same base, which is "
        "not loaded again. Whoever may use the endpoint may name them. 0: none.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="Numbers with which `serve.engine: vllm` computes; weights are rounded to them "
        "when they are loaded. Engine raydc has fp32.",
    )
    # HAProxy ends what is older when its configuration changes: `engine.serve_environment`.
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        600.0,
        description="Seconds after which a stream that has not ended fails. A replica that stops "
        "waits as long for its streams. Until its first token, and from token to token, a stream "
        "has serve.request_timeout_s.",
    )


def language_problems(spec: Spec, where: Callable[[Path], str]) -> Iterator[Problem]:
    """Yields conflicts between the task language_modelling and the rest of a spec.

    Args:
        spec: A spec whose fields are valid.
        where: Maps a path to its place in the file, for the message.
    """

    def problem(message: str, *path: str) -> Problem:
        return Problem(where(path), ".".join(path), message)

    data, train = spec.data, spec.train
    if data.chat is not None and (data.task != LANGUAGE or not isinstance(spec.model, HuggingFace)):
        message = f"it is for task: {LANGUAGE} with a pretrained decoder, model.name: huggingface"
        yield problem(message, "data", "chat")
    name = getattr(spec.model, "name", "")
    is_decoder, is_pretrained = name == "decoder", name == "huggingface"
    if data.task != LANGUAGE:
        if is_decoder:
            yield problem(f"decoder is for data.task: {LANGUAGE}", "model", "name")
        if data.blocks != TokenBlocks():
            yield problem(f"blocks are for data.task: {LANGUAGE}", "data", "blocks")
        elif data.format == "text":
            yield problem(f"files of text are for data.task: {LANGUAGE}", "data", "format")
        if spec.serve is not None:
            for field in ("engine", "generation"):
                if getattr(spec.serve, field) != getattr(type(spec.serve)(), field):
                    message = f"{field} is for data.task: {LANGUAGE}"
                    yield problem(message, "serve", field)
        return
    if not is_decoder and not is_pretrained:
        message = f"{name or 'a builder'} is not for {LANGUAGE}; set model: {{name: decoder}}"
        yield problem(message, "model")
    elif is_decoder and spec.model.freeze:
        yield problem("all weights of a decoder train; leave it out", "model", "freeze")
    for field in _NOT_READ:
        if getattr(data, field):
            yield problem(f"it is not for {LANGUAGE}; leave it out", "data", field)
    for field in FeatureOptions.model_fields:
        if field != "text" and getattr(data.features, field) != getattr(FeatureOptions(), field):
            message = f"{LANGUAGE} reads the text of {data.target!r} only; leave it out"
            yield problem(message, "data", "features", field)
    text = data.features.text
    if text.max_tokens != TextOptions().max_tokens:
        message = "documents are not cut; data.blocks.length is the length of a row"
        yield problem(message, "data", "features", "text", "max_tokens")
    if text.tokenizer is not None and text.vocabulary != TextOptions().vocabulary:
        message = "the tokenizer has its own; leave it out"
        yield problem(message, "data", "features", "text", "vocabulary")
    if data.blocks.end_token is not None and text.tokenizer is None and is_decoder:
        message = "tokens that are learnt have an end of their own; leave it out"
        yield problem(message, "data", "blocks", "end_token")
    default = type(data.clean)()
    for field in type(data.clean).model_fields:
        if field not in _CLEANS and getattr(data.clean, field) != getattr(default, field):
            message = f"it is not for {LANGUAGE}; leave it out"
            yield problem(message, "data", "clean", field)
    if data.split.by == "stratified" and data.split.column is None:
        message = "there are no classes to stratify by; name a column, or set another way"
        yield problem(message, "data", "split", "by")
    if train.loss is not None:
        message = f"the loss of {LANGUAGE} is the cross entropy of each token; leave it out"
        yield problem(message, "train", "loss")
    for field in ("metric", "metrics"):
        named = getattr(train, field) or []
        if any(":" in one for one in ([named] if isinstance(named, str) else named)):
            message = f"functions of your own are not for {LANGUAGE}; leave them out"
            yield problem(message, "train", field)
    if spec.serve is not None:
        usual = type(spec.serve)()
        for field in _ABOUT_ROWS:
            if getattr(spec.serve, field) != getattr(usual, field):
                message = f"it is about rows, and {LANGUAGE} answers with tokens; leave it out"
                yield problem(message, "serve", field)
        if is_decoder and spec.serve.generation.length is not None:
            message = "a decoder from scratch knows data.blocks.length positions; leave it out"
            yield problem(message, "serve", "generation", "length")
        yield from _engine_problems(spec.serve, is_pretrained, problem)
    if is_pretrained:
        yield from _pretrained_problems(spec, problem)


def _engine_problems(
    serve: Serve, is_pretrained: bool, problem: Callable[..., Problem]
) -> Iterator[Problem]:
    if serve.engine == "raydc":
        if serve.generation.precision != "fp32":
            message = "engine raydc computes with fp32; leave it out, or set serve.engine: vllm"
            yield problem(message, "serve", "generation", "precision")
        return
    if not is_pretrained:
        message = (
            "vLLM knows pretrained decoders only (model.name: huggingface); leave it out, and "
            "raydc serves this one"
        )
        yield problem(message, "serve", "engine")
    num_gpus = serve.ray_actor_options.get("num_gpus", 0)
    if num_gpus > 1 and num_gpus != int(num_gpus):
        message = f"{num_gpus} GPUs are no whole number of them, which vLLM needs beyond one"
        yield problem(message, "serve", "ray_actor_options")


def _pretrained_problems(spec: Spec, problem: Callable[..., Problem]) -> Iterator[Problem]:
    if getattr(spec.model, "pooling", None) is not None:
        yield problem(
            "it is for encoders, and a decoder has none; leave it out", "model", "pooling"
        )
    if BODY in spec.model.freeze:
        message = (
            "body is for a last layer that is new, and a decoder has none; name layers, such as "
            "'*.layers.[0-3]'"
        )
        yield problem(message, "model", "freeze")
    if spec.data.chat is not None:
        if spec.data.format == "text":
            yield problem("files of text hold no conversations", "data", "format")
        if spec.data.chat.prompt == spec.data.target:
            message = "it is data.target, which holds the answers; name the column of prompts"
            yield problem(message, "data", "chat", "prompt")
        if spec.data.features.text.normalisation != "none":
            message = "conversations are read as they are; leave it out"
            yield problem(message, "data", "features", "text", "normalisation")
