"""Rows of a pass: how many fit, found once for a run and then kept."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from encoder_folders import write_encoder, write_texts
from torch import nn
from training import (
    StopsAfter,
    training_spec,
    weights_hash,
    write_line,
    write_pictures,
    write_unbalanced,
)

from raydc import order, train
from raydc.checkpoint import resume, run_files
from raydc.checkpoint.peer_checkpoints import NUM_COPIES
from raydc.data import prepared
from raydc.elastic.own_memory import OwnMemory
from raydc.errors import CheckpointError, RunError, SpecError, TrainError
from raydc.loop import micro_batch, worker
from raydc.loop.assembly import Assembly, assemble
from raydc.loop.group import Alone
from raydc.loop.hooks import Hooks
from raydc.loop.micro_batch import PassMemory, find_by_trial
from raydc.spec import resolve, to_dict
from raydc.spec.load import from_dict
from raydc.spec.resolved import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import events

NUM_STEPS = 9


def spec_of(tmp_path: Path, **train: Any) -> ResolvedSpec:
    given = {"logical_shards": 2, "epochs": 1, "global_batch_size": 24, **train}
    return training_spec(str(tmp_path), train=given)


@pytest.fixture
def data(tmp_path: Path) -> Storage:
    return write_pictures(Storage(str(tmp_path / "data")))


def fit(spec: ResolvedSpec, run: Storage, data: Storage, available_bytes: int = 1 << 40) -> None:
    if run_files.read_resolved(run) is None:
        run_files.write_spec(spec, run, None)
    worker.fit(spec, run, data, hooks=Hooks(available_bytes=lambda: available_bytes))


def memory_of(spec: ResolvedSpec, data: Storage) -> PassMemory:
    parts = assemble(spec, prepared.load(data), Alone())
    return micro_batch.measure(parts, spec, 0)


def text_of_passes(run: Storage) -> list[str]:
    return [one["text"] for one in events.read(run, "events") if one["kind"] == "passes"]


@pytest.mark.parametrize(
    ("num_rows", "most", "sizes"),
    [(5, None, [5]), (5, 5, [5]), (5, 9, [5]), (10, 8, [5, 5]), (7, 3, [2, 2, 3]), (3, 1, [1] * 3)],
)
def test_passes_differ_by_a_row_at_most(num_rows: int, most: int | None, sizes: list[int]) -> None:
    found = order.passes(num_rows, most)
    assert [one.stop - one.start for one in found] == sizes
    assert found[0].start == 0
    assert found[-1].stop == num_rows


def test_enough_memory_computes_a_shard_at_once(tmp_path: Path, data: Storage) -> None:
    run, plain = Storage(str(tmp_path / "run")), Storage(str(tmp_path / "plain"))
    fit(spec_of(tmp_path, micro_batch_size="auto"), run, data)
    assert run_files.read_micro_batch(run) == 12
    (text,) = text_of_passes(run)
    assert text.startswith(
        "passes of at most 12 row(s), 1 for a logical shard: a pass of 12 row(s)"
    )
    fit(spec_of(tmp_path), plain, data)
    assert weights_hash(run, NUM_STEPS) == weights_hash(plain, NUM_STEPS)


def test_little_memory_gives_more_passes_and_the_bits_of_that_number(
    tmp_path: Path, data: Storage
) -> None:
    spec = spec_of(tmp_path, micro_batch_size="auto")
    memory = memory_of(spec, data)
    # 0.8 of it has room for five rows, which is less than half of twelve, and more than a quarter.
    little = int(memory.needs(5) / 0.8) + 100
    run, given = Storage(str(tmp_path / "run")), Storage(str(tmp_path / "given"))
    fit(spec, run, data, little)
    assert run_files.read_micro_batch(run) == 3
    fit(spec_of(tmp_path, micro_batch_size=3), given, data)
    found = weights_hash(run, NUM_STEPS)
    assert found == weights_hash(given, NUM_STEPS)
    # The control: another number has other bits.
    for number in (2, 12):
        other = Storage(str(tmp_path / f"other_{number}"))
        fit(spec_of(tmp_path, micro_batch_size=number), other, data)
        assert weights_hash(other, NUM_STEPS) != found
    assert text_of_passes(given) == []


def test_a_resume_keeps_the_number_and_refuses_a_worker_with_less_memory(
    tmp_path: Path, data: Storage
) -> None:
    spec = spec_of(tmp_path, micro_batch_size="auto")
    memory, run = memory_of(spec, data), Storage(str(tmp_path / "run"))
    fit(spec, run, data, int(memory.needs(6) / 0.8) + 100)
    assert run_files.read_micro_batch(run) == 6
    # Both the file of the run and its checkpoints have the number; the user's spec has none.
    run_files.compare_resolved(spec, run, lambda _: None)
    with pytest.raises(RunError, match=r"train\.micro_batch_size: 6 then, 12 now"):
        resume.refuse_other_spec(
            spec_of(tmp_path, micro_batch_size=12), run_files.read_resolved(run) or {}
        )
    # A little less than at first is enough, and more memory changes nothing.
    for enough in (memory.needs(6) + 10, 1 << 40):
        fit(spec, run, data, enough)
        assert run_files.read_micro_batch(run) == 6
    with pytest.raises(TrainError) as refused:
        fit(spec, run, data, memory.needs(5) + 10)
    message = refused.value.message
    assert "the passes of this run have 6 row(s), and worker 0 has memory for 5" in message
    assert f"about {memory.needs(6) / 1e9:.3g} GB" in message


@pytest.mark.parametrize("content", [b"{", b"name: short\n"])
def test_a_restart_finds_the_number_where_the_file_of_the_run_is_damaged(
    tmp_path: Path, data: Storage, content: bytes
) -> None:
    spec = spec_of(tmp_path, micro_batch_size="auto")
    memory, run = memory_of(spec, data), Storage(str(tmp_path / "run"))
    often = spec.checkpoint.model_copy(update={"every_steps": 2})
    spec = spec.model_copy(update={"checkpoint": often})
    run_files.write_spec(spec, run, None)
    little = int(memory.needs(6) / 0.8) + 100
    hooks = Hooks(available_bytes=lambda: little, faults=StopsAfter(6))
    with pytest.raises(KeyboardInterrupt):
        worker.fit(spec, run, data, hooks=hooks)
    run.write_bytes("resolved.yaml", content)
    worker.fit(spec, run, data, hooks=Hooks(available_bytes=lambda: 1 << 40))
    given = Storage(str(tmp_path / "given"))
    fit(spec_of(tmp_path, micro_batch_size=6), given, data)
    assert weights_hash(run, NUM_STEPS) == weights_hash(given, NUM_STEPS)


def test_the_model_has_the_number_in_its_spec(tmp_path: Path) -> None:
    data, run = write_unbalanced(Storage(str(tmp_path / "data"))), Storage(str(tmp_path / "run"))
    spec = spec_of(tmp_path, micro_batch_size="auto", max_steps=2, epochs=None)
    fit(spec, run, data, int(memory_of(spec, data).needs(6) / 0.8) + 100)
    train.export(spec, prepared.load(data), run, run / "model", print)
    written = yaml.safe_load(run.read_bytes("model/spec.yaml"))
    assert written["train"]["micro_batch_size"] == 6


def test_a_row_that_does_not_fit_is_refused(tmp_path: Path, data: Storage) -> None:
    run = Storage(str(tmp_path / "run"))
    with pytest.raises(TrainError, match=r"a pass needs at least 1 row\(s\), and worker 0 has"):
        fit(spec_of(tmp_path, micro_batch_size="auto"), run, data, 1000)
    assert run_files.read_micro_batch(run) is None


def test_the_estimate_counts_the_longest_text_and_layers_that_are_kept(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", num_hidden_layers=6)
    texts = write_texts(Storage(str(tmp_path / "texts")))

    def row_bytes(**values: Any) -> int:
        text = {"max_tokens": 30, "tokenizer": str(folder / "tokenizer.json")}
        spec = training_spec(
            str(tmp_path),
            model={"name": "huggingface", "path": str(folder), "dropout": 0.0, **values},
            data={"features": {"columns": {"body": "text"}, "text": text}},
        )
        return memory_of(spec, texts).row_bytes

    kept = row_bytes()
    # Each of 6 layers keeps, for a text of 30 tokens (padded to 32), its input, the three inputs of
    # attention, its weights for two heads, and the wider layer behind it.
    least = 6 * 32 * 4 * (16 + 3 * 16 + 2 * 32 + 32)
    assert least < kept < 6 * least
    # A layer and the inputs of all are less than six layers, and more than one.
    assert kept / 6 < row_bytes(gradient_checkpointing=True) < 0.6 * kept


@pytest.mark.parametrize(("room", "found"), [(100, 12), (11, 6), (3, 3), (2, 2), (1, 1), (0, 0)])
def test_passes_on_a_gpu_are_tried_until_one_fits(room: int, found: int) -> None:
    tried: list[int] = []

    def has_room(number: int) -> bool:
        tried.append(number)
        return number <= room

    number, why = find_by_trial(12, False, has_room)
    assert number == found
    assert tried == [one for one in (12, 6, 3, 2, 1) if one >= found]
    assert f"{tried[-1]} row(s)" in why


def test_a_known_number_is_tried_once() -> None:
    tried: list[int] = []
    assert find_by_trial(6, True, lambda number: bool(tried.append(number)))[0] == 0
    assert tried == [6]


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        # Libraries of GPUs have no type for it.
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["torch", "cublas", "cudnn"],
)
def test_a_pass_that_exceeds_the_memory_of_a_gpu_leaves_nothing_behind(
    tmp_path: Path, data: Storage, error: Exception
) -> None:
    spec = training_spec(str(tmp_path), model={"name": "cnn", "channels": [4], "batch_norm": True})
    parts: Assembly = assemble(spec, prepared.load(data), Alone())
    before = {name: one.clone() for name, one in parts.network.state_dict().items()}

    def refuse(_: Any, given: tuple[Any, ...]) -> None:
        if len(given[0]) > 5:
            raise error

    list(parts.network.modules())[-1].register_forward_pre_hook(refuse)
    assert not micro_batch.fits(parts, 6)
    assert micro_batch.fits(parts, 5)
    for name, one in parts.network.state_dict().items():
        assert torch.equal(one, before[name]), name
    assert all(one.grad is None for one in parts.network.parameters())


def test_a_pass_of_one_row_is_tried_as_it_is_trained(tmp_path: Path) -> None:
    data = write_line(Storage(str(tmp_path / "line")))
    parts = assemble(training_spec(str(tmp_path)), prepared.load(data), Alone())
    # A network of the user; over one row of columns, no statistics can be taken.
    parts.network.body = nn.Sequential(nn.BatchNorm1d(2), parts.network.body)
    assert micro_batch.fits(parts, 1)
    assert all(one.training for one in parts.network.modules())


def test_any_other_error_of_a_trial_is_not_taken_for_a_lack_of_memory(
    tmp_path: Path, data: Storage
) -> None:
    parts = assemble(spec_of(tmp_path), prepared.load(data), Alone())

    def fail(*_: Any) -> None:
        raise RuntimeError("no memory format")

    list(parts.network.modules())[-1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory format"):
        micro_batch.fits(parts, 2)


def test_a_storage_that_is_away_for_a_while_costs_nothing(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, run = spec_of(tmp_path, micro_batch_size="auto"), Storage(str(tmp_path / "run"))
    run_files.write_spec(spec, run, None)
    parts = assemble(spec, prepared.load(data), Alone())
    away = dict.fromkeys(("read_bytes", "write_bytes"), 2)

    def fails_at_first(name: str) -> Any:
        usual = getattr(Storage, name)

        def answer(folder: Storage, *given: Any) -> Any:
            away[name] -= 1
            if away[name] >= 0:
                raise OSError(errno.EHOSTUNREACH, "no route to host")
            return usual(folder, *given)

        return answer

    for name in away:
        monkeypatch.setattr(Storage, name, fails_at_first(name))
    found = micro_batch.settle(spec, parts, run, Alone(), lambda: 1 << 40, (0.0, 0.0))
    assert found.train.micro_batch_size == run_files.read_micro_batch(run) == 12
    away["read_bytes"] = 2
    with pytest.raises(CheckpointError, match=r"cannot be read: .*no route to host"):
        micro_batch.settle(spec, parts, run, Alone(), lambda: 1 << 40, (0.0,))


def test_copies_of_recent_states_count_before_the_run_has_a_number(
    tmp_path: Path, data: Storage
) -> None:
    spec, run = spec_of(tmp_path, micro_batch_size="auto"), Storage(str(tmp_path / "run"))
    parts = assemble(spec, prepared.load(data), Alone())
    one, five = (micro_batch.measure(parts, spec, 0, number) for number in (1, 5))
    # Weights and both moments of Adam.
    state = 3 * sum(weight.nbytes for weight in parts.network.parameters())
    assert five.needs(3) - one.needs(3) == 4 * state
    room = int(five.needs(3) / 0.8) + 100
    run_files.write_spec(spec, run, None)
    found = micro_batch.settle(spec, parts, run, Alone(), lambda: room, (), 5)
    assert found.train.micro_batch_size == 3
    # Less memory than that of the copies does not refuse what has begun.
    again = micro_batch.settle(spec, parts, run, Alone(), lambda: one.needs(3), (), 5)
    assert again.train.micro_batch_size == 3
    other = Storage(str(tmp_path / "other"))
    run_files.write_spec(spec, other, None)
    assert micro_batch.settle(spec, parts, other, Alone(), lambda: room).train.micro_batch_size != 3


def test_worker_with_peer_memory_counts_its_copies(
    tmp_path: Path, data: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    usual = micro_batch.measure

    def measure(parts: Assembly, spec: ResolvedSpec, room: int, num_copies: int) -> PassMemory:
        numbers.append(num_copies)
        return usual(parts, spec, room, num_copies)

    monkeypatch.setattr(micro_batch, "measure", measure)
    spec = spec_of(tmp_path, micro_batch_size="auto")
    for name, memory in (("plain", None), ("kept", OwnMemory())):
        run = Storage(str(tmp_path / name))
        run_files.write_spec(spec, run, None)
        hooks = Hooks(available_bytes=lambda: 1 << 40, peer_memory=memory)
        worker.fit(spec, run, data, hooks=hooks)
    assert numbers == [1, 1 + NUM_COPIES]


def test_trials_of_a_sweep_need_a_number(tmp_path: Path) -> None:
    value = to_dict(spec_of(tmp_path, micro_batch_size="auto"))
    space = {"train.learning_rate": {"choice": [0.1, 0.2]}}
    with pytest.raises(SpecError, match="each trial would find a number of its own"):
        resolve(from_dict({**value, "sweep": {"num_samples": 2, "space": space}}))
    value = to_dict(spec_of(tmp_path))
    searched = {"train.micro_batch_size": {"choice": [4, "auto"]}}
    with pytest.raises(SpecError, match="'auto' is not allowed there: each trial would find"):
        resolve(from_dict({**value, "sweep": {"num_samples": 2, "space": searched}}))


def test_the_number_stays_in_a_spec_that_is_written_again(tmp_path: Path) -> None:
    spec, run = spec_of(tmp_path, micro_batch_size="auto"), Storage(str(tmp_path / "run"))
    run_files.write_spec(spec, run, "given: text")
    run_files.write_micro_batch(spec, run, 4)
    written = yaml.safe_load(run.read_bytes("resolved.yaml"))
    assert written["train"]["micro_batch_size"] == 4
    expected = to_dict(spec)
    expected["train"]["micro_batch_size"] = 4
    assert written == expected
    assert run.read_bytes("spec.yaml") == b"given: text"
