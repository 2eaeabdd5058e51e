"""Files of prompts: completions one by one, and with all slots at once as `raydc predict` does.

    python -m bench.completions [--rounds 3] [--width 256] [--depth 4] [--slots 8] [--tokens 64]

Takes the decoder and the prompts of `bench.generation`, in this process with one thread, in turn.
Tokens per second of CPU, which other jobs on the machine change little. Each text is compared with
that of the other way.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from bench import adapters, generation
from raydc import bundle
from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.features.byte_pairs import words_of
from raydc.features.token_block import learn
from raydc.models.decoder_slots import make_slots
from raydc.registry import Registry
from raydc.storage import Storage


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
        measure(options, Path(work))


def measure(options: argparse.Namespace, work: Path) -> None:
    texts, store = generation.stories(work), Storage(str(work / "store"))
    words = Counter(word for text in texts for word in words_of(text.encode()))
    block = learn(words, 1024, options.length, "none")
    generation.write_version(store, generation.spec_of(store, options), block, texts, 0)
    loaded = bundle.load(Registry(store).folder(generation.NAME, 1))
    prompts = [" ".join(text.split()[:6]) for text in texts[: options.prompts]]
    one, several = (make_slots(loaded.model, count) for count in (1, options.slots))
    asked = AnswerOptions(options.tokens)
    for number in range(options.rounds):
        began = time.process_time()
        alone = [complete(loaded, text, asked, one) for text in prompts]
        between = time.process_time()
        many = adapters.complete_texts(loaded, several, prompts, options.tokens)
        alone_s, many_s = between - began, time.process_time() - between
        num_tokens = sum(len(answer.codes) for answer in alone)
        num_equal = sum(a.text == text for a, text in zip(alone, many, strict=True))
        print(
            f"round {number + 1}: one by one {num_tokens / alone_s:.0f}, {options.slots} at a time "
            f"{num_tokens / many_s:.0f} tokens per CPU second: {alone_s / many_s:.2f} times; "
            f"{num_equal} of {len(prompts)} texts are equal"
        )


if __name__ == "__main__":
    main()
