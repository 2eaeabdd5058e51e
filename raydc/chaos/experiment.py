"""The experiment of `raydc chaos`: repeats the steps in one process, then runs a drill.

Runs in the process of the command.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from raydc import plan
from raydc import spec as specs
from raydc.chaos import compare, culprit, forward_trace, schedule, shrink
from raydc.chaos.drill import Drill, FiredFault
from raydc.chaos.nodes import Nodes
from raydc.checkpoint.store import CheckpointStore, name_of
from raydc.data.prepared import Prepared
from raydc.data.shards import open_rows
from raydc.engine.connection import Engine
from raydc.errors import ChaosError, RunError, Say, UsageError
from raydc.loop import worker
from raydc.loop.fault_injection import DRAIN, DRIVER, NODE, RESIZE, WORKER, Fault
from raydc.loop.row_order import make_groups
from raydc.loop.sampler import make_sampler
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking.phase_timer import read_account
from raydc.tracking.time_account import format_lines

_KEEP_ALL = 1000


@dataclass(frozen=True)
class Options:
    """How much is broken.

    Attributes:
        num_steps: Steps of the small run.
        seed: Seed from which the schedule of faults is drawn.
        num_kills: Number of faults in the schedule.
        only: Kinds of faults, of `schedule.CHOICES`. Empty: all that fit the spec and touch no
            node.
    """

    num_steps: int = 24
    seed: int = 0
    num_kills: int = 5
    only: tuple[str, ...] = ()


def run(
    spec: ResolvedSpec,
    data: Prepared,
    storage: Storage,
    engine: Engine,
    report: Say,
    options: Options,
    nodes: Nodes | None = None,
) -> None:
    """Runs a small version of a spec, undisturbed and disturbed, and compares the two.

    Everything is in `runs/<name>-chaos`, which is replaced; the user's own run is not touched.

    Args:
        spec: The user's resolved spec.
        data: The data set that was prepared from it.
        storage: Gets the run folder; it is the one that the spec names.
        engine: The Ray that drivers attach to.
        report: Shows a line of progress or of the verdict.
        options: How much is broken.
        nodes: Nodes of this Ray that may be killed and drained. Default: no node is touched.

    Raises:
        ChaosError: The runs differ; the module with hidden state is named if there is one.
        UsageError: This spec or cluster cannot have one of the faults.
        RunError: The folder holds a run of the user.
    """
    most = _most_workers(spec, engine)
    faults = schedule.draw(
        options.seed,
        options.num_kills,
        options.num_steps,
        choices_of(spec, most, options.only, with_nodes=nodes is not None),
        most,
    )
    folder = _new_folder(spec, storage)
    little = shrink.shrink_spec(spec, options.num_steps, max_failures=2 * len(faults) + 2)
    rows = shrink.shrink_data(little, data, options.num_steps, folder / "data")
    size = f"{little.train.global_batch_size} rows, out of {rows.num_rows['train']:,}"
    report(f"chaos     {options.num_steps} steps of {size}; {_workers(little)}; in {folder.uri}")
    traced = check_again(little, rows, folder)
    report("chaos     repeated, and resumed in the middle: bit for bit the same")
    # The traced run in this process has the same bits as one on workers, if the spec is exact.
    undisturbed = traced
    if not _is_comparable(little, engine):
        undisturbed = folder / "undisturbed"
        Drill(little, undisturbed, rows.folder, engine.address).run()
    on_node = nodes.remove if nodes is not None else None
    drill = Drill(little, folder / "disturbed", rows.folder, engine.address, on_node)
    fired = drill.run(faults)
    for one in fired:
        report(f"chaos     {_describe(one)}")
    _judge(little, rows, undisturbed, drill.folder, faults, fired, report)


def choices_of(
    spec: ResolvedSpec, most: int, only: Sequence[str], with_nodes: bool = False
) -> list[str]:
    """Kinds of faults that a spec can have, in the order of `schedule.CHOICES`.

    Args:
        spec: The user's resolved spec.
        most: Largest number of workers that the cluster has room for.
        only: Kinds that the user wants; empty for all.
        with_nodes: Whether nodes may be killed and drained.

    Raises:
        UsageError: The user wants a kind that the spec or cluster cannot have.
    """
    can = [WORKER, schedule.CHECKPOINT, schedule.RESTORE]
    if spec.scaling.max_workers:
        can.append(DRIVER)
    # Without exactness, a different number of workers gives different bits.
    if spec.train.exact and most > 1:
        can.append(RESIZE)
    if with_nodes and spec.scaling.max_workers:
        can += [NODE, DRAIN]
    for name in only:
        if name not in can:
            raise UsageError(
                f"--only {name}: this fault does not fit the spec or the cluster",
                f"Faults that do: {', '.join(can)}.",
            )
    return [name for name in can if not only or name in only]


def _most_workers(spec: ResolvedSpec, engine: Engine) -> int:
    if not spec.scaling.max_workers:
        return 0
    fits = plan.how_many(plan.worker_resources(spec, engine.resources), engine.resources)
    return min(spec.train.logical_shards, fits)


def _new_folder(spec: ResolvedSpec, storage: Storage) -> Storage:
    name = f"{spec.name}-chaos"
    folder = storage / "runs" / name
    # A user's run has this file, a drill's run does not.
    if folder.exists("resolved.yaml"):
        raise RunError(
            f"{folder.uri} holds a run of yours",
            f"Give this spec another name, so that {name} is free.",
        )
    folder.delete()
    return folder


def _workers(spec: ResolvedSpec) -> str:
    workers = spec.scaling.max_workers
    return f"{workers} worker(s)" if workers else "in one process"


def _is_comparable(spec: ResolvedSpec, engine: Engine) -> bool:
    """Whether a run in the calling process has the same bits as one on workers."""
    return spec.train.exact and not plan.uses_gpu(spec, engine.resources)


def check_again(spec: ResolvedSpec, data: Prepared, folder: Storage) -> Storage:
    """Trains three times in this process: twice from the start, once from a checkpoint in the
    middle.

    Args:
        spec: Resolved spec of `shrink.shrink_spec`.
        data: Small data set of `shrink.shrink_data`.
        folder: Gets a folder for each of the three runs.

    Returns:
        The folder of the first run.

    Raises:
        ChaosError: The runs differ; the module to blame is named.
    """
    alone = specs.with_values(
        spec,
        {
            "scaling.num_workers": 0,
            "scaling.use_gpu": spec.scaling.use_gpu,
            # Keeps every checkpoint, so that one from the middle exists.
            "checkpoint.num_to_keep": _KEEP_ALL,
        },
    )
    first, again, resumed = (folder / name for name in ("first", "again", "resumed"))
    one, other = _traced(alone, data, first), _traced(alone, data, again)
    _refuse(culprit.find(one, other), one, alone, "from the start once more")
    _copy_middle(first, resumed)
    _refuse(
        culprit.find(one, _traced(alone, data, resumed)),
        one,
        alone,
        "after a resume, without any kill",
    )
    return first


def _traced(spec: ResolvedSpec, data: Prepared, folder: Storage) -> forward_trace.ForwardTrace:
    with forward_trace.tracing() as watched:
        worker.fit(spec, folder, data.folder)
    return watched


def _copy_middle(first: Storage, resumed: Storage) -> None:
    store = CheckpointStore(first / "checkpoints", _KEEP_ALL)
    steps = store.steps()
    found = store.read(steps[len(steps) // 2 - 1])
    CheckpointStore(resumed / "checkpoints", _KEEP_ALL).write(found.step, found.files, found.meta)


def _refuse(
    found: culprit.Culprit | None, whole: forward_trace.ForwardTrace, spec: ResolvedSpec, when: str
) -> None:
    if found is None:
        return
    num_steps = spec.train.max_steps or 1
    # Each step has the same number of passes: one for each logical shard.
    step = found.pass_index * num_steps // len(whole.passes) + 1
    raise ChaosError(f"step {step} differs when it is done {when}: {found.reason}", found.remedy)


def _describe(one: FiredFault) -> str:
    took = (
        "the run was over"
        if one.to_next_step_s is None
        else f"next new step after {one.to_next_step_s:.1f} s"
    )
    return f"{schedule.describe(one.fault, one.rank)}, {one.step} done: {took}"


def _judge(
    spec: ResolvedSpec,
    data: Prepared,
    undisturbed: Storage,
    disturbed: Storage,
    faults: Sequence[Fault],
    fired: Sequence[FiredFault],
    report: Say,
) -> None:
    rows, signature = open_rows(data.folder, "train"), data.features.signature
    sampler = make_sampler(
        spec.train.sampling, spec.seed, len(signature.classes), lambda: rows.targets
    )
    groups = make_groups(spec.train, signature, lambda: rows.lengths)
    one, other = (
        compare.read(folder, spec, len(rows), sampler, groups)
        for folder in (undisturbed, disturbed)
    )
    problems = compare.differences(one, other)
    problems += [f"undisturbed: {violation}" for violation in one.row_violations]
    problems += [f"disturbed: {violation}" for violation in other.row_violations]
    # A fault that did not fire proves nothing, so it is a failure too.
    missed = {fault.id for fault in faults} - {each.fault.id for each in fired}
    problems += [
        f"{schedule.describe(fault, fault.rank)}: did not fire"
        for fault in faults
        if fault.id in missed
    ]
    for line in format_lines(read_account(disturbed)):
        report(f"          {line}")
    if problems:
        raise ChaosError(
            "the disturbed run differs from the undisturbed one:\n    " + "\n    ".join(problems),
            f"The runs are in {undisturbed.uri} and {disturbed.uri}.",
        )
    took = [each.to_next_step_s for each in fired if each.to_next_step_s is not None]
    times = (
        f"; a new step after {statistics.median(took):.1f} s (median), {max(took):.1f} s (worst)"
        if took
        else ""
    )
    last = name_of(other.checkpoint.step)
    report(
        f"chaos     disturbed equals undisturbed, bit for bit: {last} {other.weights[:16]}, "
        f"{len(other.losses)} losses"
    )
    how_often = "exactly once" if sampler is None else "as often as its class must be"
    report(f"chaos     every row was used {how_often}, in its place")
    report(f"done      {len(fired)} fault(s) survived{times}")
