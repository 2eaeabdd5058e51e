"""`raydc chaos`: the same steps again in one process, then a run that is killed as a seed says."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from raydc import plan
from raydc import spec as specs
from raydc.chaos import compare, culprit, forward_trace, schedule, small
from raydc.chaos.drill import Drill, Happened
from raydc.chaos.nodes import Nodes
from raydc.checkpoint.store import CheckpointStore, name_of
from raydc.data.prepared import Prepared
from raydc.engine.connection import Engine
from raydc.errors import ChaosError, RunError, Say, UsageError
from raydc.loop import worker
from raydc.loop.fault_injection import DRAIN, DRIVER, NODE, RESIZE, WORKER, Fault
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking.phase_timer import read_account
from raydc.tracking.time_account import format_lines


@dataclass(frozen=True)
class Options:
    """How much is broken.

    Attributes:
        num_steps: Of the small run.
        seed: Of the schedule.
        num_kills: Faults of the schedule.
        only: Kinds of faults, of `schedule.CHOICES`; empty: all that fit the spec and leave a cluster as it is.
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
    """Runs the spec small, undisturbed and disturbed, and says how they compare.

    Everything is in `runs/<name>-chaos`, which is made anew; the run of the spec itself is not touched.

    Args:
        spec: Resolved.
        data: Prepared from it.
        storage: Of the spec.
        engine: The Ray that drivers attach to.
        report: Takes lines.
        options: How much is broken.
        nodes: Of this Ray, to be killed and drained. Default: no node is touched.

    Raises:
        ChaosError: The disturbed run did not end as the undisturbed one; what keeps hidden state is named.
        UsageError: A fault that this spec or cluster cannot have.
        RunError: A run of the user is named as the folder that is needed.
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
    little = small.make_spec(spec, options.num_steps, max_failures=2 * len(faults) + 2)
    rows = small.make_data(little, data, options.num_steps, folder / "data")
    batch = f"{little.train.global_batch_size} of {rows.num_rows['train']:,} rows"
    report(f"chaos     {options.num_steps} steps of {batch}, {_crew(little)}; in {folder.uri}")
    traced = check_again(little, rows, folder)
    report("chaos     the same steps again, and resumed in the middle: bit for bit the same")
    undisturbed = traced
    if not _is_comparable(little, engine):
        undisturbed = folder / "undisturbed"
        Drill(little, undisturbed, rows.folder, engine.address).run()
    on_node = nodes.take_away if nodes is not None else None
    drill = Drill(little, folder / "disturbed", rows.folder, engine.address, on_node)
    happened = drill.run(faults)
    for one in happened:
        report(f"chaos     {_line(one)}")
    _judge(little, rows, undisturbed, drill.folder, faults, happened, report)


def choices_of(
    spec: ResolvedSpec, most: int, only: Sequence[str], with_nodes: bool = False
) -> list[str]:
    """Kinds of faults that a spec can have.

    Raises:
        UsageError: One that was asked for, and that it cannot have.
    """
    can = [WORKER, schedule.CHECKPOINT, schedule.RESTORE]
    if spec.scaling.max_workers:
        can.append(DRIVER)
    if spec.train.exact and most > 1:
        can.append(RESIZE)
    if with_nodes and spec.scaling.max_workers:
        can += [NODE, DRAIN]
    for name in only:
        if name not in can:
            raise UsageError(
                f"--only {name}: this spec cannot have it here", f"It can have {', '.join(can)}."
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
    if folder.exists("resolved.yaml"):
        raise RunError(
            f"{folder.uri} is a run of its own",
            f"Give this spec another name, so that {name} is free.",
        )
    folder.delete()
    return folder


def _crew(spec: ResolvedSpec) -> str:
    workers = spec.scaling.max_workers
    return f"{workers} worker(s)" if workers else "in one process"


def _is_comparable(spec: ResolvedSpec, engine: Engine) -> bool:
    """Whether a run in the calling process has the bits of one on workers."""
    return spec.train.exact and not plan.uses_gpu(spec, engine.resources)


# The same again --------------------------------------------------------------------------------------


def check_again(spec: ResolvedSpec, data: Prepared, folder: Storage) -> Storage:
    """Trains in this process: from the start, from the start again, and from a checkpoint in the middle.

    Returns:
        The folder of the first run.

    Raises:
        ChaosError: They differ; the module that is to blame is named.
    """
    alone = specs.with_values(
        spec,
        {
            "scaling.num_workers": 0,
            "scaling.use_gpu": spec.scaling.use_gpu,
            "checkpoint.num_to_keep": 1000,
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
    store = CheckpointStore(first / "checkpoints", 1000)
    steps = store.steps()
    found = store.read(steps[len(steps) // 2 - 1])
    CheckpointStore(resumed / "checkpoints", 1000).write(found.step, found.files, found.meta)


def _refuse(
    found: culprit.Culprit | None, whole: forward_trace.ForwardTrace, spec: ResolvedSpec, when: str
) -> None:
    if found is None:
        return
    num_steps = spec.train.max_steps or 1
    step = found.call * num_steps // len(whole.calls) + 1
    raise ChaosError(f"step {step} differs when it is done {when}: {found.reason}", found.remedy)


# The report ------------------------------------------------------------------------------------------


def _line(one: Happened) -> str:
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
    happened: Sequence[Happened],
    report: Say,
) -> None:
    one, other = (
        compare.read(folder, spec, data.num_rows["train"]) for folder in (undisturbed, disturbed)
    )
    problems = compare.differences(one, other)
    problems += [f"undisturbed: {fault}" for fault in one.rows] + [
        f"disturbed: {fault}" for fault in other.rows
    ]
    missed = {fault.id for fault in faults} - {each.fault.id for each in happened}
    problems += [
        f"{schedule.describe(fault, fault.rank)}: did not happen"
        for fault in faults
        if fault.id in missed
    ]
    for line in format_lines(read_account(disturbed)):
        report(f"          {line}")
    if problems:
        raise ChaosError(
            "the disturbed run is not the undisturbed one:\n    " + "\n    ".join(problems),
            f"The runs are in {undisturbed.uri} and {disturbed.uri}.",
        )
    took = [each.to_next_step_s for each in happened if each.to_next_step_s is not None]
    times = (
        f"; a new step after {statistics.median(took):.1f} s (median), {max(took):.1f} s (worst)"
        if took
        else ""
    )
    last = name_of(other.checkpoint.step)
    report(
        f"chaos     resume equals undisturbed: {last} {other.weights[:16]}, {len(other.losses)} losses bit for bit"
    )
    report("chaos     exactly once: every row in its place")
    report(f"done      {len(happened)} fault(s) survived{times}")
