"""Sections `train`, `scaling`, `fault_tolerance` and `checkpoint` of a spec. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from raydc.spec.base import Count, Fraction, NotNegative, Positive, Section, named
from raydc.spec.loss import Loss
from raydc.spec.metric import Metric
from raydc.spec.sampling import Sampling
from raydc.spec.threshold import Threshold

DEFAULT_EPOCHS = 10
DEFAULT_EVERY_SECONDS = 60.0
# One CPU also means one thread, so the bits of a run do not depend on the machine.
DEFAULT_WORKER_RESOURCES = {"CPU": 1.0}
# Ray fills one GPU before it takes the next (ray-project/ray #48012), so two workers with up to
# this part of a GPU are on the same one.
_SHARED_GPU = 0.5


class Optimizer(Section):
    """An optimiser of torch.optim."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: NotNegative | None = Field(
        None, description="Default: torch's own for the optimiser."
    )
    no_decay: list[str] = Field(
        default_factory=list,
        description="Weights without weight decay: names and patterns as of model.freeze, such as "
        "`*.bias`; `1d` for all that have one dimension, as biases and normalisations do.",
    )
    momentum: Fraction = Field(0.0, description="For sgd.")
    nesterov: bool = Field(False, description="For sgd with momentum.")

    @model_validator(mode="after")
    def _sgd_only(self) -> Optimizer:
        # torch ignores neither: both would be unknown arguments of Adam.
        if self.name != "sgd" and (self.momentum or self.nesterov):
            raise ValueError(f"momentum and nesterov are for sgd, not for {self.name}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum > 0")
        return self


class LrScheduler(Section):
    """The learning rate over all steps, after a linear warm-up."""

    name: Literal["constant", "cosine", "linear", "step"] = "constant"
    warmup_steps: int = Field(0, ge=0, description="Steps in which the rate rises linearly from 0.")
    final_fraction: Fraction = Field(
        0.0, description="Last rate as a fraction of `learning_rate`: for cosine and linear."
    )
    step_epochs: Count = Field(10, description="Epochs between two drops: for step.")
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.1, description="Factor of a drop: for step."
    )


class EarlyStop(Section):
    """Stops a run whose validation metric no longer improves."""

    patience: Count = Field(description="Epochs without improvement before the run stops.")
    min_delta: NotNegative = Field(
        0.0, description="A change counts as an improvement if it is larger than this."
    )


class Train(Section):
    """How the model is fitted."""

    epochs: Count | None = Field(
        None, description=f"Passes over the training rows (default {DEFAULT_EPOCHS})."
    )
    max_steps: Count | None = Field(None, description="Steps, instead of epochs.")
    global_batch_size: Count = Field(256, description="Rows of one step, summed over all workers.")
    logical_shards: Count | None = Field(
        None,
        description="Pieces that each step is cut into, for any number of workers. Default: the "
        "largest number of workers.",
    )
    micro_batch_size: Count | Literal["auto"] | None = Field(
        None,
        description="Most rows of a forward and backward pass. A logical shard of more rows is "
        "computed in several passes, whose gradients add up; each number of passes has its own "
        "last bits. auto: as many rows as fit into the memory of the smallest worker at the first "
        "start; the number is written into resolved.yaml, holds for all later workers, and a "
        "worker with too little memory for it is refused. Default: a logical shard at once.",
    )
    exact: bool = Field(
        True,
        description="The same bits for every number of workers: shards are computed one by one and "
        "summed along one tree. false: a worker computes all its rows at once, and the order of "
        "the sum is not fixed.",
    )
    loss: Loss | None = Field(
        None,
        description="A name, or a name with its arguments. Default: cross_entropy, or mse for "
        "regression. The metric `loss` is that default, whatever training minimises.",
    )
    sampling: Sampling | None = Field(
        None,
        description="A name, or a name with its arguments. Default: every row once in an epoch. "
        "Each worker keeps 12 bytes for each training row.",
    )
    group_by_length: bool = Field(
        False,
        description="Put texts and lists of similar length into one step, and pad each logical "
        "shard to its longest only. Rows of 50 neighbouring steps are sorted by length, and their "
        "steps are taken in an order that is drawn. Each worker keeps 4 bytes for each training "
        "row.",
    )
    optimizer: Optimizer = Field(Optimizer(), description="A name, or a name with its arguments.")
    learning_rate: Positive = Field(1e-3, description="Highest learning rate.")
    layer_rates: dict[str, Positive] = Field(
        default_factory=dict,
        description="Factors of the learning rate for some layers, by a name or pattern as of "
        "model.freeze: `{body: 0.1}` trains all layers but the last at a tenth. The last pattern "
        "that fits a weight counts.",
    )
    l1: NotNegative = Field(
        0.0,
        description="L1 penalty: this times the sum of the absolute weights is added to the loss "
        "that training minimises, except for weights of optimizer.no_decay. The recorded loss is "
        "without it.",
    )
    lr_scheduler: LrScheduler = Field(
        LrScheduler(), description="A name, or a name with arguments."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: mixed precision (autocast)."
    )
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None,
        description="Part that stays, in each step, of a moving average of the weights, such as "
        "0.999. The average is validated and becomes the model; training goes on with the weights "
        "themselves. In the first steps it follows faster: (1 + t) / (10 + t) stays after t steps.",
    )
    gradient_clip_norm: Positive | None = Field(None, description="Largest norm of the gradient.")
    cache_frozen: bool = Field(
        True,
        description="Compute the layers before the first that trains (model.freeze) once and keep "
        "their outputs in the folder of the data set, unless rows or layers draw random numbers on "
        "the way. false computes them in each epoch, for the same model bit for bit.",
    )
    early_stop: EarlyStop | None = Field(
        None, description="Stop when the validation metric no longer improves."
    )
    metric: Metric | None = Field(
        None,
        description="Metric that selects the best checkpoint, the one that is served. Default: "
        "accuracy, or rmse for regression. precision, recall and f1 are means over the classes "
        "(macro). Of equal values the lower loss is the best. With fewer than some hundred "
        "validation rows, accuracy and f1 move in large steps and a lucky early epoch may win; "
        "loss is steadier.",
    )
    metrics: list[Metric] = Field(
        [],
        description="More metrics of every epoch, besides accuracy and f1, or rmse, mae and r2: "
        "names, or `my_package.my_module:function`, called with the probabilities [N, K] and class "
        "positions [N] of all validation rows, or with predicted and expected values [N]; it "
        "returns a number. `raydc evaluate` computes all of the task and your own.",
    )
    threshold: Threshold | None = Field(
        None,
        description="Score from which on a row is called positive, for two classes: f1, or "
        "precision or recall with `at_least`. It is chosen on the validation rows at each epoch, "
        "stored in the model, and decides the labels of answers, predictions and `raydc "
        "evaluate`; the metrics of epochs are those of the highest score. Default: the class with "
        "the highest score.",
    )
    ndcg_k: Count = Field(
        10, description="Places of each group of data.query that count for the metric ndcg."
    )
    mode: Literal["max", "min"] | None = Field(
        None, description="Whether more or less is better. Default: as the metric needs."
    )
    log_every_steps: Count = Field(
        10,
        description="Steps between two writes of metrics and progress. Lines of quick steps "
        "wait half a second for more of them.",
    )

    _expand_names = field_validator(
        "loss", "sampling", "optimizer", "lr_scheduler", "threshold", mode="before"
    )(named)

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("give epochs or max_steps, not both")
        # Shards without a row would have no gradient to sum.
        if self.logical_shards is not None and self.logical_shards > self.global_batch_size:
            raise ValueError(
                f"logical_shards ({self.logical_shards}) must not exceed global_batch_size "
                f"({self.global_batch_size}): a shard needs a row"
            )
        return self


class WorkerRange(Section):
    """An elastic number of workers."""

    min: Count
    max: Count

    @model_validator(mode="after")
    def _ordered(self) -> WorkerRange:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must not exceed max ({self.max})")
        return self


# Pydantic would try all members of the union; with a tag the error is about the one that is meant.
def _workers_kind(value: Any) -> str:
    # Pydantic passes a section itself when it serialises the spec.
    return "range" if isinstance(value, dict | WorkerRange) else "number"


class Scaling(Section):
    """Number of workers and the resources of each. The names are Ray Train's."""

    num_workers: Annotated[
        Annotated[int, Field(ge=0), Tag("number")] | Annotated[WorkerRange, Tag("range")],
        Discriminator(_workers_kind),
    ] = Field(
        1,
        description="A number, or {min, max} to be elastic. 0 trains inside the calling process. "
        "In a sweep the workers of each trial: it begins with min, and idle workers join up to "
        "max.",
    )
    use_gpu: Literal["auto", True, False] = Field(
        "auto", description="auto: if the cluster has a GPU for each worker."
    )
    resources_per_worker: dict[str, Positive] | None = Field(
        None,
        description="Ray resources of a worker. Default: 1 CPU, and 1 GPU with use_gpu. The "
        "number of CPUs is also the number of its threads. Several workers of a run, or of a "
        "trial, need more than half a GPU each, if any.",
    )
    start_timeout_s: Positive = Field(
        600.0,
        description="How long workers wait for free resources, at the start and after a lost node.",
    )

    @property
    def worker_resources(self) -> dict[str, float]:
        """Ray resources of one worker, without the GPU that `use_gpu` may add."""
        return dict(self.resources_per_worker or DEFAULT_WORKER_RESOURCES)

    @property
    def shares_gpus(self) -> bool:
        """Whether Ray puts several workers on one GPU, where NCCL joins no two of them.

        With more than half a GPU each has one of its own.
        """
        return self.worker_resources.get("GPU", 1.0) <= _SHARED_GPU

    @property
    def max_workers(self) -> int:
        """Largest number of workers."""
        return (
            self.num_workers.max if isinstance(self.num_workers, WorkerRange) else self.num_workers
        )

    @property
    def min_workers(self) -> int:
        """Smallest number of workers."""
        return (
            self.num_workers.min if isinstance(self.num_workers, WorkerRange) else self.num_workers
        )


class FaultTolerance(Section):
    """Failures that a run survives, and their cost. The first two names are Ray Train's."""

    max_failures: int = Field(
        3, ge=-1, description="Failures of workers before the run fails; -1: no limit."
    )
    max_preemption_failures: int = Field(
        -1, ge=-1, description="Preempted or drained nodes before the run fails; -1: no limit."
    )
    max_recomputed_steps: int = Field(
        10,
        ge=0,
        description="Most steps that a lost worker costs, or 0.3 s of steps if that is more: "
        "recent states are kept in the memory of another node. 0: off.",
    )
    spare_workers: bool = Field(
        True,
        description="Keep a standby process, with everything imported, for each worker once a run "
        "is 15 s old. Each takes 0.5 GB of memory.",
    )


class Checkpoint(Section):
    """When checkpoints are written. There is always one at the end of an epoch and of the run."""

    every_steps: Count | None = Field(None, description="Steps between two checkpoints.")
    every_seconds: Positive | Literal["auto"] | None = Field(
        None,
        description=f"Seconds between two checkpoints (default {DEFAULT_EVERY_SECONDS:g}); auto: "
        "the interval that loses the least time (Young, Daly), from the measured cost of a "
        "checkpoint and the observed time between failures.",
    )
    num_to_keep: Count = Field(
        3, description="Number of newest checkpoints to keep; the best one is kept as well."
    )

    @model_validator(mode="after")
    def _one_interval(self) -> Checkpoint:
        if self.every_steps is not None and self.every_seconds is not None:
            raise ValueError("give every_steps or every_seconds, not both")
        return self
