"""Streams of a language model: throughput of one and of many, and streams through promotes.

    python -m bench.generation [--streams 2000] [--width 256] [--depth 4] [--length 256] [--slots 8]
    python -m bench.generation --streams 100 --decoder FOLDER [--measured-tokens 16] [--rounds 1]

Serves a decoder with random weights on a local Ray, over HTTP, with tokens of examples/stories; or
one of Hugging Face, with versions of it that have random adapters.
First it asks for the same texts one by one and from as many clients as there are slots, in turn
for several rounds. Then these clients ask for greedy streams while versions are promoted, one
that does not verify is refused, a canary runs and is dropped, and a promote is rolled back, again
and again. Each text is compared with the offline text of the version that its events name.
Counts what is broken (an error, or no end), of mixed versions, and different. Prints one table
and writes one JSON file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench import adapters
from bench.wrong_prompts import spoil_prompts
from raydc import bundle, engine, models, serve, spec
from raydc.errors import ServeError
from raydc.features import Features, Signature, TokenBlock
from raydc.features.byte_pairs import words_of
from raydc.features.token_block import learn
from raydc.models.decoder_slots import make_slots
from raydc.registry import Registry
from raydc.serve.control import rollout
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
NAME, ALIAS = "texts", "production"
NUM_PROMPTS = 24
NUM_MEASURED = 24
# First weights are so small that a decoder repeats its last token.
LOUDER = 10.0
TIMEOUT_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--measured-tokens", type=int, default=64)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--decoder", default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "generation.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
        found = measure(options, Path(work))
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2))
    show(found, options)


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    texts = stories(work)
    store = Storage(str(work / "store"))
    if options.decoder:
        made = adapted(store, options, work)
    else:
        words = Counter(w for text in texts for w in words_of(text.encode()))
        block = learn(words, 1024, options.length, "none")
        made = spec_of(store, options)
        for seed in range(3):
            write_version(store, made, block, texts, seed)
    prompts = [" ".join(text.split()[:6]) for text in texts[:NUM_PROMPTS]]
    offline = offline_texts(store, prompts, options)
    connected = engine.connect(num_cpus=2)
    try:
        url = serve.deploy(made, store, 1).url
        rates = throughput(url, prompts, options)
        load = Load(url, prompts, offline, options)
        load.run(store)
        return {"tokens_per_s": rates, "streams": load.counts(), "changes": load.num_changes}
    finally:
        serve.shutdown()
        del connected
        engine.disconnect()


def stories(work: Path) -> list[str]:
    """Texts of examples/stories."""
    sys.path.insert(0, str(ROOT))
    from examples.stories.write import write

    write(work)
    return (work / "stories.txt").read_text().split("\n\n")[:400]


def adapted(store: Storage, options: argparse.Namespace, work: Path) -> ResolvedSpec:
    """Registers versions of a pretrained decoder with random adapters; see `write_version`."""
    more = {"rank": 8, "attention": "sdpa", "adapters": 0}
    given = argparse.Namespace(**{**vars(options), **more})
    replicas = {
        "port": 0,
        "autoscaling_config": {"max_replicas": 1},
        "request_timeout_s": TIMEOUT_S,
    }
    made = adapters.spec_of(options.decoder, store.uri, given, NAME, **replicas)
    for seed in range(3):
        adapters.write_version(made, work / f"made-{seed}", seed, is_wrong=seed == 2)
    return made


def spec_of(store: Storage, options: argparse.Namespace) -> ResolvedSpec:
    return spec.resolve(
        spec.from_dict(
            {
                "name": NAME,
                "storage": store.uri,
                "data": {
                    "source": "texts",
                    "format": "text",
                    "task": "language_modelling",
                    "blocks": {"length": options.length},
                },
                "model": {
                    "name": "decoder",
                    "width": options.width,
                    "depth": options.depth,
                    "heads": max(1, options.width // 64),
                    "tied": False,
                },
                "serve": {
                    "port": 0,
                    "auth": "none",
                    "autoscaling_config": {"max_replicas": 1},
                    "generation": {"slots": options.slots},
                },
            }
        )
    )


def write_version(
    store: Storage, made: ResolvedSpec, block: TokenBlock, texts: list[str], seed: int
) -> None:
    """Registers a version with random weights; the golden prompts of the third do not match."""
    signature = Signature(
        "record",
        (),
        "",
        (),
        (),
        "language_modelling",
        fields={"text": block.field},
        num_values=block.length,
    )
    features = Features(signature, "text", {"text": block})
    network = models.build(made.model, signature, seed)
    weights = {
        name: tensor * (LOUDER if tensor.ndim > 1 else 1.0)
        for name, tensor in network.state_dict().items()
    }
    folder = store / f"made-{seed}"
    golden = [{"text": text} for text in texts[:4]]
    bundle.write(folder, made, features, weights, golden, {"run": NAME})
    if seed == 2:
        spoil_prompts(folder)
    Registry(store).register(NAME, folder, {"run": NAME})


def offline_texts(
    store: Storage, prompts: list[str], options: argparse.Namespace
) -> dict[tuple[str, int], str]:
    """Greedy texts by version and prompt."""
    found = {}
    for version in (1, 2):
        loaded = bundle.load(Registry(store).folder(NAME, version))
        slots = make_slots(loaded.model, options.slots)
        texts = adapters.complete_texts(loaded, slots, prompts, options.tokens)
        found |= {(str(version), number): text for number, text in enumerate(texts)}
    return found


def throughput(url: str, prompts: list[str], options: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens per second by round: one by one, and from as many clients as slots."""

    def ask(number: int) -> int:
        body = {
            "model": NAME,
            "prompt": prompts[number % NUM_PROMPTS],
            "max_tokens": options.measured_tokens,
            # A greedy text of a model with random weights does not end.
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return int(events_of(answer.text)[-2]["usage"]["completion_tokens"])

    rates: dict[str, list[float]] = {"one by one": [], f"{options.slots} at a time": []}
    for _ in range(options.rounds):
        for name, found in rates.items():
            with ThreadPoolExecutor(1 if name == "one by one" else options.slots) as pool:
                started = time.perf_counter()
                num_tokens = sum(pool.map(ask, range(NUM_MEASURED)))
                found.append(num_tokens / (time.perf_counter() - started))
    return rates


def events_of(content: str) -> list[Any]:
    texts = [part.removeprefix("data: ") for part in content.split("\n\n")[:-1]]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


@dataclass
class Load:
    """Clients that stream without a pause, while versions change."""

    url: str
    prompts: list[str]
    offline: dict[tuple[str, int], str]
    options: argparse.Namespace
    outcomes: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    num_changes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, store: Storage) -> None:
        with ThreadPoolExecutor(self.options.slots) as pool:
            done = [pool.submit(self._stream, number) for number in range(self.options.streams)]
            while not all(one.done() for one in done):
                self._change(store)
            for one in done:
                one.result()

    def _change(self, store: Storage) -> None:
        """A promote, a bad one, a rollback, and a canary that is dropped."""
        serve.promote(store, NAME, ALIAS, 2)
        try:
            serve.promote(store, NAME, ALIAS, 3)
        except ServeError:
            self.num_changes += 1
        serve.rollback(store, NAME, ALIAS)
        rollout.start(store, NAME, ALIAS, "canary", 2, 0.5)
        rollout.end(store, NAME, ALIAS, "canary")
        self.num_changes += 4

    def _stream(self, number: int) -> None:
        try:
            outcome = self._ask(number)
        except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
            outcome = f"broken: {type(error).__name__}"
        with self._lock:
            self.outcomes[outcome] += 1

    def _ask(self, number: int) -> str:
        prompt = number % NUM_PROMPTS
        body = {
            "model": NAME,
            "prompt": self.prompts[prompt],
            "max_tokens": self.options.tokens,
            "temperature": 0,
            "stream": True,
        }
        answer = httpx.post(f"{self.url}/v1/completions", json=body, timeout=TIMEOUT_S)
        if answer.status_code != 200:
            return f"broken: {answer.status_code}"
        *events, last = events_of(answer.text)
        if last != "[DONE]":
            return "broken: no end"
        names = {event["model"] for event in events}
        if len(names) != 1:
            return "of mixed versions"
        version = names.pop().partition(":")[2]
        with self._lock:
            self.versions[version] += 1
        text = "".join(event["choices"][0]["text"] for event in events)
        return "equal" if text == self.offline[version, prompt] else "different"

    def counts(self) -> dict[str, Any]:
        return {"outcomes": dict(self.outcomes), "by_version": dict(self.versions)}


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    for name, rates in found["tokens_per_s"].items():
        rounds = ", ".join(f"{rate:.0f}" for rate in rates)
        print(f"{name:14} {max(rates):7.0f} tokens/s  (rounds: {rounds})")
    one, many = (max(rates) for rates in found["tokens_per_s"].values())
    print(f"ratio          {many / one:7.2f}")
    outcomes = ", ".join(f"{count} {name}" for name, count in found["streams"]["outcomes"].items())
    print(f"{options.streams} streams through {found['changes']} changes: {outcomes}")
    print(f"by version: {found['streams']['by_version']}")


if __name__ == "__main__":
    main()
