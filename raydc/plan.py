"""Plans what a spec will do with given resources. Pure: connects to nothing, starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raydc import order
from raydc.errors import ClusterError
from raydc.spec import ResolvedSpec
from raydc.spec.row_sources import HuggingFaceRows, RowFunction, SqlQuery, TorchvisionRows
from raydc.spec.sections import Sources, WorkerRange
from raydc.spec.sweep_section import LEARNING, Sweep

# One for the process of the model, one for the task that reads; they can share a single one.
_EVALUATE_CPUS = 2
STAGES = ("prepare", "sweep", "train", "evaluate", "register", "serve")


@dataclass(frozen=True)
class Plan:
    """The stages of a run and the size of each.

    Attributes:
        stages: Names of the stages, in their order.
        num_workers: Workers that fit now; of one trial, for a sweep.
        worker: Ray resources of one worker.
        replica: Ray resources of one replica; empty without an endpoint.
        num_concurrent_trials: Trials of a sweep at a time; 0 without a sweep.
        lines: The plan as text for the user.
    """

    stages: tuple[str, ...]
    num_workers: int
    worker: dict[str, float]
    replica: dict[str, float]
    num_concurrent_trials: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class CrewSize:
    """Workers of a trial.

    Attributes:
        least: Workers that each trial always has.
        most: Workers that it may get, no more than it has shards.
        shards: Logical shards of a step.
    """

    least: int
    most: int
    shards: int


def crew_size(spec: ResolvedSpec) -> CrewSize:
    """How many workers a trial of a sweep has, by section `scaling` of the spec.

    Args:
        spec: The resolved spec of the sweep.
    """
    shards, least = spec.train.logical_shards, max(1, spec.scaling.min_workers)
    # Without exact sums each number of workers has results of its own.
    may_join = spec.train.exact and not spec.scaling.shares_gpus
    most = max(least, min(spec.scaling.max_workers, shards)) if may_join else least
    return CrewSize(least, most, shards)


def uses_gpu(spec: ResolvedSpec, resources: Mapping[str, float]) -> bool:
    """Whether each worker takes a GPU.

    Args:
        spec: A resolved spec. `use_gpu: auto` means yes if every worker can have one, and if
            `resources_per_worker` says how much of one.
        resources: Totals of the cluster by Ray's names (`CPU`, `GPU`, ...).
    """
    if spec.scaling.use_gpu != "auto":
        return bool(spec.scaling.use_gpu)
    # A worker that reserves a part of a GPU runs nowhere else.
    if "GPU" in spec.scaling.worker_resources:
        return True
    return resources.get("GPU", 0.0) >= max(1, spec.scaling.min_workers)


def worker_resources(spec: ResolvedSpec, resources: Mapping[str, float]) -> dict[str, float]:
    """Returns the Ray resources of one worker.

    Args:
        spec: The resolved spec; `scaling` sets what a worker needs.
        resources: Totals of the cluster by Ray's names, which decide `use_gpu: auto`.
    """
    needs = spec.scaling.worker_resources
    if uses_gpu(spec, resources):
        needs.setdefault("GPU", 1.0)
    return needs


def num_threads(spec: ResolvedSpec) -> int:
    """Number of CPU threads of one worker: its CPUs, at least 1."""
    # Threads change the order of sums, and so the bits: the number comes from the spec alone.
    return max(1, int(spec.scaling.worker_resources.get("CPU", 1.0)))


def replica_resources(spec: ResolvedSpec) -> dict[str, float]:
    """Ray resources of one replica; empty if the spec has no endpoint."""
    if spec.serve is None:
        return {}
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    options = spec.serve.ray_actor_options
    # Options such as accelerator_type are placement hints, not amounts to count.
    needs = {names[key]: float(value) for key, value in options.items() if key in names}
    return needs | {key: float(value) for key, value in options.get("resources", {}).items()}


def how_many(needs: Mapping[str, float], resources: Mapping[str, float]) -> int:
    """Counts the processes that fit into the resources, ignoring their spread over nodes.

    Args:
        needs: Ray resources of one process, by name.
        resources: Totals of the cluster, by the same names.
    """
    given = ((name, amount) for name, amount in needs.items() if amount > 0)
    fits = [_num_parts(amount, resources.get(name, 0.0), name) for name, amount in given]
    # A process that needs no resources always fits.
    return min(fits, default=1_000_000)


def _num_parts(amount: float, total: float, name: str) -> int:
    # The small addend keeps a ratio such as 1.2 / 0.4 from falling just below 3.
    if name == "GPU" and amount < 1:  # A part of a GPU is on a single one.
        return int(total) * int(1 / amount + 1e-9) + int(total % 1 / amount + 1e-9)
    return int(total / amount + 1e-9)


def count_placeable(
    needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]], group_size: int = 1
) -> int:
    """Counts the groups of processes that run at the same time on some nodes.

    A process is on one node, the processes of a group may be on several.

    Args:
        needs: Ray resources of one process, by name.
        nodes: Resources of each node, by the same names.
        group_size: Processes of a group, such as the workers of a trial.
    """
    return sum(how_many(needs, node) for node in nodes) // group_size


def make(
    spec: ResolvedSpec,
    resources: Mapping[str, float],
    num_rows: int | None = None,
    nodes: Sequence[Mapping[str, float]] = (),
) -> Plan:
    """Plans the stages of a spec.

    Args:
        spec: The resolved spec, whose stages are planned.
        resources: Totals of the cluster or of this machine, by Ray's names (`CPU`, `GPU`, ...).
        num_rows: Number of training rows; None if the data set is not prepared yet.
        nodes: Resources of each node; empty if they are not known, or there is one.

    Raises:
        ClusterError: The resources cannot hold the fewest workers or replicas of a stage.
    """
    worker = worker_resources(spec, resources)
    nodes = nodes or [resources]
    fits = count_placeable(worker, nodes)
    # Zero workers train in this process, which is there in any case.
    crew = crew_size(spec)
    if spec.sweep is not None and fits < crew.least:
        what = "1 trial" if crew.least == 1 else f"{crew.least} workers of 1 trial,"
        raise _too_small("sweep", what, worker, nodes, fits)
    if spec.scaling.max_workers > 0 and fits < crew.least:
        raise _too_small("train", f"{spec.scaling.min_workers} worker(s)", worker, nodes)
    if resources.get("CPU", 0.0) < 1:
        raise _too_small("evaluate", "1 process", {"CPU": 1.0}, nodes)
    replica = replica_resources(spec)
    if spec.serve is not None and count_placeable(replica, nodes) < max(
        1, spec.serve.autoscaling_config.min_replicas
    ):
        least = max(1, spec.serve.autoscaling_config.min_replicas)
        raise _too_small("serve", f"{least} replica(s)", replica, nodes)
    stages = ["prepare", "sweep" if spec.sweep else "train", "evaluate", "register"]
    stages += ["serve"] if spec.serve else []
    # Workers of one trial may be on several nodes.
    concurrent = _num_concurrent(spec.sweep, fits // crew.least) if spec.sweep else 0
    plan = Plan(
        stages=tuple(stages),
        num_workers=min(spec.scaling.max_workers, fits),
        worker=worker,
        replica=replica,
        num_concurrent_trials=concurrent,
        lines=(),
    )
    lines = _lines(spec, plan, num_rows)
    if resources.get("CPU", 0.0) < _EVALUATE_CPUS:
        row = next(number for number, line in enumerate(lines) if line.startswith("evaluate"))
        lines[row] += "; reading and the model share the only CPU"
    return replace(plan, lines=tuple(lines))


def _num_concurrent(sweep: Sweep, fits: int) -> int:
    """Trials at a time, of which `fits` have room."""
    most = [fits, sweep.max_concurrent_trials or fits]
    # Trial i waits for the first result of trial i - lag. Without rungs that is its end; with them
    # trials that go on run beside those that are new.
    if sweep.search_alg in LEARNING and sweep.scheduler.name == "fifo":
        most.append(sweep.lag)
    return min(most)


def _too_small(
    stage: str,
    what: str,
    needs: Mapping[str, float],
    nodes: Sequence[Mapping[str, float]],
    fits: int = 0,
) -> ClusterError:
    have = [_amounts({name: node.get(name, 0.0) for name in needs}) for node in nodes]
    where = have[0]
    if len(nodes) > 1:
        # Many nodes are of few kinds.
        kinds = (f"{have.count(kind)} of {kind}" for kind in dict.fromkeys(have))
        where = f"{len(nodes)} nodes, {'; '.join(kinds)}"
    return ClusterError(
        f"{stage}: {what} of {_amounts(needs)} each do not fit into {where}"
        f"{f': {fits} fit' if fits else ''}",
        "Use fewer or smaller ones (scaling.num_workers, scaling.resources_per_worker, "
        "serve.ray_actor_options) "
        "or give --address of a larger cluster.",
    )


def _amounts(needs: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(needs.items())) or "nothing"


def _lines(spec: ResolvedSpec, plan: Plan, num_rows: int | None) -> list[str]:
    train = spec.train
    source = spec.data.source
    parts = " and a test part" if isinstance(source, Sources) else ""
    lines = [f"prepare   {spec.data.task} of {spec.data.target!r} from {_source_name(spec)}{parts}"]
    length = f"{train.epochs} epochs" if train.max_steps is None else f"{train.max_steps} steps"
    if train.sampling is not None and train.epochs is not None:
        length += f" ({train.sampling.name} by class)"
    elif num_rows is not None and train.epochs is not None:
        # Without a prepared data set, the number of steps in an epoch is not known.
        steps = order.num_steps(num_rows, train.global_batch_size)
        length += f" of {steps} steps ({num_rows:,} rows)"
    how = f"in {train.logical_shards} logical shard(s)" if train.exact else "(exact: false)"
    most = train.micro_batch_size
    if most is not None:
        how += ", in passes that fit" if most == "auto" else f", in passes of at most {most}"
    shards = f"{train.global_batch_size} rows a step {how}"
    workers = spec.scaling.num_workers
    if isinstance(workers, WorkerRange):
        crew = f"{plan.num_workers} worker(s) now, {workers.min} to {workers.max}"
    else:
        crew = f"{workers} worker(s)" if workers else "the calling process"
    if spec.sweep:
        by = "" if spec.sweep.search_alg == "random" else f" by {spec.sweep.search_alg}"
        lines.append(
            f"sweep     {spec.sweep.num_samples} samples{by} over {', '.join(spec.sweep.space)}; "
            f"{plan.num_concurrent_trials} at a time, {length} each, {shards}"
        )
        lines.append(f"          {_crew_text(spec, plan)}")
    else:
        lines.append(f"train     {length}, {shards}, on {crew} of {_amounts(plan.worker)}")
        lines.append(
            f"          up to {spec.fault_tolerance.max_failures} failures survived; "
            f"{_checkpoints(spec)}"
        )
    lines.append("evaluate  on the held-out rows")
    lines.append(f"register  as the next version of model {spec.name!r}")
    if spec.serve:
        scaling = spec.serve.autoscaling_config
        lines.append(
            f"serve     alias {spec.serve.alias!r} at "
            f"http://{spec.serve.host}:{spec.serve.port or '(a free port)'}, "
            f"{scaling.min_replicas} to {scaling.max_replicas} replica(s) of "
            f"{_amounts(plan.replica)}, "
            f"{'open to everybody' if spec.serve.auth == 'none' else 'with tokens only'}"
        )
    lines.append(f"storage   {spec.storage}")
    return lines


def _crew_text(spec: ResolvedSpec, plan: Plan) -> str:
    """How many workers a trial of a sweep begins with and gets."""
    crew = crew_size(spec)
    each = f"{crew.least} worker{'' if crew.least == 1 else 's'} of {_amounts(plan.worker)}"
    if crew.most == crew.least:
        return f"a trial has {each}"
    return f"a trial begins with {each}, and up to {crew.most} train it where others are idle"


def _source_name(spec: ResolvedSpec) -> str:
    source = spec.data.source
    if isinstance(source, Sources):
        source = source.train
    if isinstance(source, SqlQuery):
        return "a query"
    if isinstance(source, RowFunction):
        return f"function {source.function}"
    if isinstance(source, HuggingFaceRows):
        return f"{source.huggingface} of Hugging Face"
    if isinstance(source, TorchvisionRows):
        return f"{source.torchvision} of torchvision"
    return source if isinstance(source, str) else f"{source.images} and {source.labels}"


def _checkpoints(spec: ResolvedSpec) -> str:
    checkpoint = spec.checkpoint
    if checkpoint.every_steps is not None:
        return f"a checkpoint every {checkpoint.every_steps} steps and at the end of each epoch"
    if checkpoint.interval_s == "auto":
        return "checkpoints at the interval that loses the least time, and at the end of each epoch"
    return f"a checkpoint every {checkpoint.interval_s:g} s and at the end of each epoch"
