"""vLLM as the engine of a replica: a stand-in of its API computes tokens, all else is real."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
import safetensors.torch
import torch
from fake_vllm import FakeVllm
from pretrained_models import LORA, PretrainedStore
from served_language import wait_until

from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.errors import CheckpointError, RaydcError, ServeError, SpecError
from raydc.models.causal_network import weights_of_decoder
from raydc.models.token_sampling import TokenSampling
from raydc.serve.replica import vllm_folder
from raydc.serve.replica.answer_stream import AnswerStream, Piece
from raydc.serve.replica.loaded_version import LoadedVersion, load_version
from raydc.serve.replica.service import Service
from raydc.serve.replica.vllm_engine import VllmEngine

TEXTS = ["the cat sees a dog", "a", "then home again ok müde", "home", "a cat"]
# A token before a document counts, and the network has 64 positions.
MOST = 63


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    before = dict(os.environ)
    yield fake_vllm.install(monkeypatch)
    gc.collect()
    # What is set for vLLM must not reach processes of other tests.
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PretrainedStore:
    return PretrainedStore(tmp_path_factory.mktemp("vllm"), is_chat=False)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> PretrainedStore:
    return PretrainedStore(tmp_path_factory.mktemp("adapted"), lora=LORA)


def load(
    store: PretrainedStore, version: int = 1, *others: LoadedVersion, **fields: Any
) -> LoadedVersion:
    settings = store.settings(version, engine="vllm", **fields)
    return load_version(settings, version, None, ThreadPoolExecutor(1), others)


async def read(stream: AnswerStream) -> tuple[str, Piece]:
    text, piece = "", await stream.next_piece()
    while not piece.is_last:
        text, piece = text + piece.text, await stream.next_piece()
    return text + piece.text, piece


def answer(loaded: LoadedVersion, texts: list[str], options: AnswerOptions) -> list[str]:
    engine = loaded.engine
    assert engine is not None

    async def ask() -> list[str]:
        codes = [engine.prompts.encode(text, "prompt") for text in texts]
        streams = [engine.submit(one, options) for one in codes]
        return [(await read(stream))[0] for stream in streams]

    return asyncio.run(ask())


def offline(store: PretrainedStore, version: int, options: AnswerOptions) -> list[str]:
    return [complete(store.bundle(version), text, options).text for text in TEXTS]


def test_each_greedy_text_is_that_of_the_version(fake: FakeVllm, store: PretrainedStore) -> None:
    loaded, options = load(store, num_slots=len(TEXTS)), AnswerOptions(20)
    (engine,) = fake.engines
    engine.most_running = 0
    assert answer(loaded, TEXTS, options) == offline(store, 1, options)
    # They grew together, and the sizes of the passes are counted.
    assert engine.most_running == len(TEXTS)
    assert loaded.engine is not None
    assert max(loaded.engine.pass_sizes) == len(TEXTS)
    assert loaded.bundle.compute.startswith("vllm")


def test_vllm_reads_the_weights_of_the_bundle_bit_for_bit(
    fake: FakeVllm, store: PretrainedStore
) -> None:
    bundle, kept = store.bundle(), load(store)
    (engine,) = fake.engines
    own = weights_of_decoder(bundle.model)
    assert engine.state.keys() == own.keys()
    assert all(torch.equal(one, own[name]) for name, one in engine.state.items())
    # No copy of the weights stays on the disk, nor in this process.
    assert not Path(engine.arguments.model).exists()
    assert all(one.is_meta for one in kept.bundle.model.parameters())


def test_arguments_are_those_of_the_spec_and_load_no_code(
    fake: FakeVllm, store: PretrainedStore
) -> None:
    kept = load(store, num_slots=5, length=40, precision="bf16")
    arguments = fake.engines[0].arguments
    assert (arguments.max_num_seqs, arguments.max_model_len) == (5, 41)
    assert arguments.dtype == "bfloat16"
    assert {one.dtype for one in fake.engines[0].state.values()} == {torch.bfloat16}
    assert arguments.load_format == "safetensors"
    assert not arguments.trust_remote_code
    assert arguments.skip_tokenizer_init
    # Keys and values of 2 layers with 1 head of 8 numbers in 6 blocks of 128 tokens, 2 bytes each.
    assert arguments.kv_cache_memory_bytes == 2 * 2 * 1 * 8 * 6 * 128 * 2
    assert kept.engine is not None
    assert (kept.engine.num_slots, kept.engine.max_tokens) == (5, 40)


def test_several_gpus_share_the_layers(fake: FakeVllm, store: PretrainedStore) -> None:
    kept = [load(store, device="cuda", num_gpus=one, precision="bf16") for one in (0.5, 2)]
    found = [one.arguments for one in fake.engines]
    assert [one.tensor_parallel_size for one in found] == [1, 2]
    assert [one.distributed_executor_backend for one in found] == [None, "mp"]
    assert [one.enforce_eager for one in found] == [False, False]
    assert len(kept) == 2


def test_sampled_texts_repeat_with_their_seed(fake: FakeVllm, store: PretrainedStore) -> None:
    loaded = load(store)
    one, again, other = (
        answer(loaded, TEXTS, AnswerOptions(20, TokenSampling(1.0, 0.9, seed)))
        for seed in (2**64 - 1, 2**64 - 1, 7)
    )
    assert one == again
    assert one != other


def test_a_stop_string_ends_the_answer_and_the_work(fake: FakeVllm, store: PretrainedStore) -> None:
    loaded = load(store)
    whole = answer(loaded, TEXTS[:1], AnswerOptions(20))[0]
    word = whole.split()[2]
    (found,) = answer(loaded, TEXTS[:1], AnswerOptions(20, stop=(word,)))
    assert found == whole[: whole.index(word)]
    (engine,) = fake.engines
    wait_until(lambda: not engine.running)
    assert len(engine.aborted) == 1


def test_an_answer_counts_its_tokens_and_says_why_it_ended(
    fake: FakeVllm, store: PretrainedStore
) -> None:
    engine = load(store).engine
    assert engine is not None
    codes = engine.prompts.encode(TEXTS[0], "prompt")
    _, piece = asyncio.run(_ask(engine, codes, AnswerOptions(4)))
    assert (piece.num_tokens, piece.finish_reason) == (4, "length")
    expected = complete(store.bundle(), TEXTS[0], AnswerOptions(40))
    _, piece = asyncio.run(_ask(engine, codes, AnswerOptions(40)))
    assert (piece.num_tokens, piece.finish_reason) == (len(expected.codes), expected.finish_reason)


async def _ask(engine: Any, codes: list[int], options: AnswerOptions) -> tuple[str, Piece]:
    return await read(engine.submit(codes, options))


def test_a_client_that_goes_ends_the_work(fake: FakeVllm, store: PretrainedStore) -> None:
    loaded = load(store)
    (engine,) = fake.engines
    fake.gate.clear()
    assert loaded.engine is not None
    submit = loaded.engine.submit

    async def leave() -> None:
        stream = submit([7, 8], AnswerOptions(20))
        while not engine.running:
            await asyncio.sleep(0.001)
        # Before its first token, for which vLLM would have to make others wait.
        stream.cancel()
        while engine.running:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(leave(), 30))
    assert len(engine.aborted) == 1


def test_a_version_that_computes_something_else_is_refused_and_its_process_ends(
    fake: FakeVllm, store: PretrainedStore
) -> None:
    # Errors that are kept refer to the engine.
    with pytest.raises(CheckpointError, match=r"golden prompts\[0\]: token 0") as first:
        load(store, 3)
    fake.spoiled = 50.0
    with pytest.raises(CheckpointError, match="of the answer is 0 with a score of") as second:
        load(store)
    wait_until(lambda: [one.is_shut_down for one in fake.engines] == [True, True])
    del first, second


def test_tokens_that_another_one_precedes_are_counted_and_said(
    fake: FakeVllm, store: PretrainedStore
) -> None:
    total = sum(len(one["answer"]) for one in store.bundle().golden["prompts"])
    exact = load(store)
    words = "computed by vLLM; its last bits may depend on what is computed with it; "
    assert exact.answer == f"{words}all {total} tokens of its golden prompts come first in fp32"
    # As much as a score may miss by rounding: another token precedes each of them a little.
    fake.lead = 0.0125
    rounded = load(store, precision="bf16")
    assert rounded.answer == (
        f"{words}for {total} of {total} tokens of its golden prompts another one comes first in "
        "bf16, by at most 0.0125 in its score"
    )
    assert isinstance(rounded.engine, VllmEngine)
    assert rounded.engine.check_golden(store.bundle(), 2e-2).num_others == total
    fake.lead = 1.0
    assert "set serve.generation.precision: fp32" in str(refused(store, precision="bf16"))
    assert "precision" not in str(refused(store))


def test_a_length_that_golden_prompts_do_not_fit_into_is_served(
    fake: FakeVllm, store: PretrainedStore
) -> None:
    longest = max(len(one["prompt"]) for one in store.bundle().golden["prompts"])
    for length in range(1, longest + 2):
        loaded = load(store, length=length, max_tokens=1)
        assert loaded.engine is not None
        assert loaded.engine.max_tokens == length


def test_what_a_killed_replica_has_left_on_the_disk_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, signal; from raydc.serve.replica import vllm_folder as one\n"
        "folder = one.VllmFolder(); (folder.path / 'model.safetensors').write_text('weights')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert len(list(tmp_path.rglob("model.safetensors"))) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept, other = vllm_folder.VllmFolder(), vllm_folder.VllmFolder()
    assert not list(tmp_path.rglob("model.safetensors"))
    other.remove()
    assert list(tmp_path.iterdir()) == [kept.path.parent]
    del kept
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_call_that_takes_too_long_is_cancelled_and_named(
    fake: FakeVllm, store: PretrainedStore
) -> None:
    loaded = load(store)
    assert isinstance(loaded.engine, VllmEngine)
    process = loaded.engine.loop
    (engine,) = fake.engines
    fake.holds_scores = True
    fake.gate.clear()
    with pytest.raises(TimeoutError, match=r"vLLM has not answered for 0\.5 seconds"):
        process.call(loaded.engine._score([7], [8]), 0.5)
    wait_until(lambda: not engine.running)


def test_a_process_lives_until_the_last_answer_of_its_version(
    fake: FakeVllm, store: PretrainedStore
) -> None:
    loaded = [load(store)]
    (engine,) = fake.engines
    fake.gate.clear()

    async def outlive() -> str:
        found = loaded[0].engine
        assert found is not None
        stream = found.submit(found.prompts.encode(TEXTS[0], "prompt"), AnswerOptions(20))
        while not engine.running:
            await asyncio.sleep(0.001)
        del found
        loaded.clear()
        gc.collect()
        assert not engine.is_shut_down
        fake.gate.set()
        return (await read(stream))[0]

    assert asyncio.run(outlive()) == offline(store, 1, AnswerOptions(20))[0]
    wait_until(lambda: engine.is_shut_down)


def test_versions_with_adapters_of_one_base_share_a_process(
    fake: FakeVllm, adapted: PretrainedStore
) -> None:
    first = load(adapted)
    second = load(adapted, 2, first)
    (engine,) = fake.engines
    assert (engine.arguments.enable_lora, engine.arguments.max_lora_rank) == (True, 8)
    options = AnswerOptions(20)
    texts = [answer(one, TEXTS, options) for one in (first, second, first)]
    assert texts[0] == texts[2] == offline(adapted, 1, options)
    assert texts[1] == offline(adapted, 2, options) != texts[0]
    assert len(engine.adapters) == 2
    del second
    wait_until(lambda: len(engine.adapters) == 1)
    assert answer(first, TEXTS, options) == texts[0]
    # The same version again is another adapter to vLLM, whose caches go by its number.
    numbers = set(engine.adapters)
    again = load(adapted, 2, first)
    assert answer(again, TEXTS, options) == texts[1]
    assert max(engine.adapters) > max(numbers) + 1
    del first, again
    wait_until(lambda: engine.is_shut_down)


def test_a_version_is_checked_while_all_slots_of_its_process_are_taken(
    fake: FakeVllm, adapted: PretrainedStore
) -> None:
    first = load(adapted, num_slots=2)
    (engine,) = fake.engines
    assert first.engine is not None
    assert first.engine.num_slots == 2
    submit = first.engine.submit

    async def promote() -> LoadedVersion:
        fake.gate.clear()
        streams = [submit([7, 8], AnswerOptions(20)) for _ in range(2)]
        while len(engine.running) < 2:
            await asyncio.sleep(0.001)
        try:
            promoted = asyncio.to_thread(load, adapted, 2, first, num_slots=2)
            second = await asyncio.wait_for(promoted, 60)
            assert len(engine.running) == 2
        finally:
            fake.gate.set()
        for stream in streams:
            await read(stream)
        return second

    assert asyncio.run(promote()).engine is not None


def test_adapters_with_other_limits_get_a_process_of_their_own(
    fake: FakeVllm, adapted: PretrainedStore
) -> None:
    first = load(adapted)
    second = load(adapted, 2, first, num_slots=2)
    assert len(fake.engines) == 2
    options = AnswerOptions(20)
    assert answer(second, TEXTS, options) == offline(adapted, 2, options)
    assert answer(first, TEXTS, options) == offline(adapted, 1, options)


def test_adapters_that_vllm_refuses_are_named(fake: FakeVllm, adapted: PretrainedStore) -> None:
    fake.refuses_adapters = True
    with pytest.raises(CheckpointError, match="does not take the adapters of version 1 of words"):
        load(adapted)
    wait_until(lambda: fake.engines[0].is_shut_down)


def test_a_process_that_has_ended_fails_the_health_check(
    fake: FakeVllm, store: PretrainedStore
) -> None:
    async def serve() -> tuple[str | None, str | None, str]:
        service = Service()
        await service.configure(store.settings(engine="vllm"))
        before = service.fault
        fake.engines[0].is_dead = True
        current = service.current
        assert current is not None
        assert current.engine is not None
        stream = current.engine.submit([7], AnswerOptions(4))
        with pytest.raises(RuntimeError) as caught:
            await read(stream)
        return before, service.fault, str(caught.value)

    before, after, message = asyncio.run(serve())
    assert before is None
    assert after == "the process of vLLM has ended"
    assert message == "the engine is dead"


def test_new_limits_start_another_process_and_the_old_one_ends(
    fake: FakeVllm, store: PretrainedStore
) -> None:
    async def change() -> list[int]:
        service = Service(unload_delay_s=0.0)
        sizes = []
        same: tuple[dict[str, Any], ...] = ({}, {"max_tokens": 5}, {"max_batch_size": 3})
        for fields in (*same, {"num_slots": 2}):
            await service.configure(store.settings(engine="vllm", **fields))
            assert service.current is not None
            assert service.current.engine is not None
            sizes.append(service.current.engine.num_slots)
        return sizes

    assert asyncio.run(change()) == [8, 8, 8, 2]
    assert len(fake.engines) == 2
    gc.collect()
    wait_until(lambda: fake.engines[0].is_shut_down)


def refused(store: PretrainedStore, **fields: Any) -> RaydcError:
    with pytest.raises(RaydcError) as caught:
        load(store, **fields)
    return caught.value


def test_a_replica_without_vllm_is_refused_with_the_command(
    store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that none is found, even where the package is installed.
    monkeypatch.setitem(sys.modules, "vllm", None)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "vllm" else find_spec(name)
    )
    error = refused(store)
    assert isinstance(error, ServeError)
    assert "pip install 'raydc[language,vllm]'" in str(error)


def test_other_systems_than_linux_are_refused(
    fake: FakeVllm, store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert "runs on Linux only, and this replica on darwin" in str(refused(store))


def test_the_token_before_a_text_needs_a_position(fake: FakeVllm, store: PretrainedStore) -> None:
    kept = load(store, length=MOST)
    assert fake.engines[0].arguments.max_model_len == MOST + 1
    error = refused(store, length=MOST + 1)
    assert isinstance(error, SpecError)
    assert "65 tokens are more than the 64 positions" in str(error)
    assert kept.engine is not None


def test_adapters_on_gpus_need_half_precision(fake: FakeVllm, adapted: PretrainedStore) -> None:
    assert "serve.generation.precision: bf16" in str(refused(adapted, device="cuda", num_gpus=1))


def test_a_full_disk_is_named(
    fake: FakeVllm, store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vllm_folder.safetensors.torch, "save_file", fail)
    assert "No space left on device" in str(refused(store))
    assert safetensors.torch.save_file is fail


def test_what_vllm_says_is_part_of_the_refusal(
    fake: FakeVllm, store: PretrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("long story\nModel architectures are not supported for now.")

    monkeypatch.setattr(fake_vllm.AsyncLLMEngine, "from_engine_args", fail)
    error = refused(store)
    assert "vLLM cannot load words: Model architectures are not supported for now." in str(error)
