"""Adapters of one base in a replica: what another one costs, in memory, at load and at a switch.

    python -m bench.adapters [--adapters 8] [--decoder FOLDER] [--quick] [--output FILE]

Registers versions of one pretrained decoder, whose adapters have random weights, and loads them as
a replica does. By default the decoder is a new one with random weights; `--decoder` takes a folder
of Hugging Face.

- `load`: the first version, which reads the base, and each other one, which reads its adapters;
  both with the check of the golden prompts.
- `switch`: time that a slot takes to get another adapter.
- `first token`: of requests one by one, from the same version and from another one each time.
- `tokens per second` of as many clients as slots, of one version and of all versions in turn. Both
  kinds of clients share passes, so they should be equal.

Each greedy text is compared with the offline text of its version. `--quick` asks for fewer and
shorter ones: for decoders of more than about 100 million parameters. Prints one table and writes
one JSON file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench.wrong_prompts import spoil_prompts
from raydc import bundle, models, spec
from raydc.bundle import Bundle
from raydc.bundle.completion import find_prompts
from raydc.bundle.growing_answer import AnswerOptions
from raydc.bundle.many_completions import Question, complete_many
from raydc.data.tokenizer_file import check_blocks
from raydc.features import Features, Signature
from raydc.models.cached_slots import SlotModel
from raydc.models.decoder_slots import make_slots
from raydc.models.pretrained_slots import PretrainedSlots
from raydc.registry import Registry
from raydc.serve.control.application import build_settings
from raydc.serve.replica.loaded_version import LoadedVersion, load_version
from raydc.serve.settings import Traffic
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

RESULTS = Path(__file__).resolve().parent / "results"
NAME = "adapted"
TEXTS = ("The sea", "A river is", "In the morning", "Once upon a time")
NUM_SWITCHES = 40
NUM_ASKED = 16
# A first B is zero, and would add nothing.
LOUDNESS = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--decoder", default=None)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "adapters.json")
    options = parser.parse_args()
    options.texts, options.asked = TEXTS, NUM_ASKED
    if options.quick:
        options.texts, options.asked, options.tokens = TEXTS[:2], options.adapters, 6
    with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
        found = measure(options, Path(work))
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2))
    show(found, options)


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    decoder = options.decoder or str(write_decoder(work / "decoder"))
    made = spec_of(decoder, str(work / "store"), options)
    for seed in range(options.adapters):
        write_version(made, work / f"made-{seed}", seed)
    loaded, load_s = load_all(made)
    texts = asyncio.run(ask_all(loaded, options))
    rates = {
        name: asyncio.run(rate(some, options))
        for name, some in (("one version", loaded[:1]), ("all versions", loaded))
    }
    return {
        "load_s": load_s,
        "switch_ms": switches(loaded, options),
        "first_token_ms": {
            name: asyncio.run(first_tokens(some, options))
            for name, some in (("same", loaded[:1]), ("another", loaded))
        },
        "tokens_per_s": rates,
        "equal": sum(
            one == offline(loaded[number].bundle, options) for number, one in enumerate(texts)
        ),
        "versions": len(texts),
    }


def write_decoder(folder: Path) -> Path:
    """A decoder of about 30 million parameters with random weights, and a tokenizer of bytes."""
    import tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM

    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    codes = {one: number for number, one in enumerate([*sorted(letters), "<|end|>"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(codes, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(codes),
        hidden_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        intermediate_size=1536,
        max_position_embeddings=512,
        eos_token_id=codes["<|end|>"],
        initializer_range=0.05,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    return folder


def spec_of(
    decoder: str, store: str, options: argparse.Namespace, name: str = NAME, **serve: Any
) -> ResolvedSpec:
    return spec.resolve(
        spec.from_dict(
            {
                "name": name,
                "storage": store,
                "data": {
                    "source": "texts",
                    "format": "text",
                    "task": "language_modelling",
                    "blocks": {"length": options.length},
                },
                "model": {
                    "name": "huggingface",
                    "path": decoder,
                    "attention": options.attention,
                    "lora": {"rank": options.rank},
                },
                "serve": {
                    **serve,
                    "auth": "none",
                    "generation": {"slots": options.slots, "adapters": options.adapters},
                },
            }
        )
    )


def write_version(made: ResolvedSpec, folder: Path, seed: int, is_wrong: bool = False) -> None:
    """Registers a version whose adapters have random weights.

    Args:
        made: Spec of the version.
        folder: Folder for its bundle, which is empty again in the end.
        seed: Seed of the weights.
        is_wrong: Whether its golden prompts do not match.
    """
    column, length = check_blocks(made.data), made.data.blocks.length
    signature = Signature(
        "record",
        (),
        "",
        (),
        (),
        "language_modelling",
        fields={"text": column.field},
        num_values=length,
    )
    network = models.build(made.model, signature, made.seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weights in network.parameters():
            if weights.requires_grad:
                weights.add_(LOUDNESS * torch.randn_like(weights))
    place = Storage(str(folder))
    golden = [{"text": text} for text in TEXTS]
    features = Features(signature, "text", {"text": column})
    bundle.write(place, made, features, network.state_dict(), golden, {"run": made.name})
    if is_wrong:
        spoil_prompts(place)
    Registry(Storage(made.storage)).register(made.name, place, {"run": made.name})
    for name in place.names():
        (folder / name).unlink()


def load_all(made: ResolvedSpec) -> tuple[list[LoadedVersion], list[float]]:
    assert made.serve is not None
    loaded: list[LoadedVersion] = []
    seconds = []
    for version in Registry(Storage(made.storage)).versions(NAME):
        storage = Storage(made.storage)
        settings = build_settings(NAME, made.serve, storage, Traffic(version=version))
        started = time.perf_counter()
        loaded.append(load_version(settings, version, None, ThreadPoolExecutor(1), tuple(loaded)))
        seconds.append(time.perf_counter() - started)
    return loaded, seconds


def switches(loaded: Sequence[LoadedVersion], options: argparse.Namespace) -> list[float]:
    """Milliseconds of each of some assignments of another adapter to a slot."""
    engine = loaded[0].engine
    assert engine is not None
    slots = engine.loop.slots
    assert isinstance(slots, PretrainedSlots)
    found = []
    for number in range(NUM_SWITCHES):
        other = loaded[number % len(loaded)].engine
        assert other is not None
        assert other.adapter is not None
        started = time.perf_counter()
        slots.assign(number // len(loaded) % options.slots, other.adapter)
        found.append(1e3 * (time.perf_counter() - started))
    return found


async def answer(one: LoadedVersion, text: str, num_tokens: int) -> tuple[str, float]:
    """Greedy text of a version, and the seconds until its first token."""
    engine = one.engine
    assert engine is not None
    started = time.perf_counter()
    stream = engine.submit(engine.prompts.encode(text, "prompt"), AnswerOptions(num_tokens))
    piece = await stream.next_piece()
    first_s, found = time.perf_counter() - started, piece.text
    while not piece.is_last:
        piece = await stream.next_piece()
        found += piece.text
    return found, first_s


async def ask_all(loaded: Sequence[LoadedVersion], options: argparse.Namespace) -> list[list[str]]:
    """Greedy texts of all versions, asked at once."""
    asked = [
        asyncio.gather(*(answer(one, text, options.tokens) for text in options.texts))
        for one in loaded
    ]
    return [[text for text, _ in some] for some in await asyncio.gather(*asked)]


async def first_tokens(loaded: Sequence[LoadedVersion], options: argparse.Namespace) -> list[float]:
    """Milliseconds until the first token of requests one by one, to each version in turn."""
    found = []
    for number in range(options.asked):
        _, first_s = await answer(loaded[number % len(loaded)], TEXTS[0], 2)
        found.append(1e3 * first_s)
    return found


async def rate(loaded: Sequence[LoadedVersion], options: argparse.Namespace) -> float:
    """Tokens per second of as many clients as slots."""
    started = time.perf_counter()
    asked = (
        answer(loaded[number % len(loaded)], TEXTS[0], options.tokens)
        for number in range(2 * options.slots)
    )
    await asyncio.gather(*asked)
    return 2 * options.slots * options.tokens / (time.perf_counter() - started)


def offline(loaded: Bundle, options: argparse.Namespace) -> list[str]:
    """Greedy texts of a version by itself."""
    slots = make_slots(loaded.model, options.slots)
    return complete_texts(loaded, slots, options.texts, options.tokens)


def complete_texts(
    loaded: Bundle, slots: SlotModel, texts: Sequence[str], num_tokens: int
) -> list[str]:
    """Greedy texts of a version, without an endpoint.

    Args:
        loaded: The version.
        slots: Slots of its network.
        texts: Prompts.
        num_tokens: Most tokens of an answer.
    """
    prompts = find_prompts(loaded)
    asked = AnswerOptions(num_tokens)
    questions = [Question(text, prompts.encode(text, "prompt"), asked) for text in texts]
    return [one.text for one in complete_many(prompts, slots, questions)]


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    first, *others = found["load_s"]
    print(f"load: first version {first:.2f} s, others {statistics.median(others):.2f} s (median)")
    switched = sorted(found["switch_ms"])
    print(f"switch: {statistics.median(switched):.1f} ms (median), {switched[-1]:.1f} ms (most)")
    for name, times in found["first_token_ms"].items():
        print(f"first token, {name} version: {statistics.median(times):.1f} ms (median)")
    for name, per_s in found["tokens_per_s"].items():
        print(f"{options.slots} at a time, {name}: {per_s:.0f} tokens/s")
    print(f"texts equal to offline: {found['equal']} of {found['versions']} versions")


if __name__ == "__main__":
    main()
