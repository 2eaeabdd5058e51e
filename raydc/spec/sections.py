"""The whole spec, and its sections `sweep` and `serve`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raydc.spec.base import Count, Fraction, NotNegative, Positive, Section, named
from raydc.spec.data import Augment, Clean, Data, IdxFiles, Sources, Split
from raydc.spec.model import Builder, Cnn, Linear, Mlp, Model, Torchvision, model_kind
from raydc.spec.space import Domain
from raydc.spec.train import (
    Checkpoint,
    EarlyStop,
    FaultTolerance,
    LrScheduler,
    Optimizer,
    Scaling,
    Train,
    WorkerRange,
)

__all__ = [
    "Augment",
    "AutoscalingConfig",
    "Builder",
    "CanaryRule",
    "Checkpoint",
    "Clean",
    "Cnn",
    "Data",
    "Domain",
    "EarlyStop",
    "FaultTolerance",
    "IdxFiles",
    "Linear",
    "LrScheduler",
    "Mlp",
    "Model",
    "Optimizer",
    "Scaling",
    "Section",
    "Serve",
    "Sources",
    "Spec",
    "Split",
    "Sweep",
    "SweepScheduler",
    "Torchvision",
    "Train",
    "WorkerRange",
    "model_kind",
]


class SweepScheduler(Section):
    """Which trials go on."""

    name: Literal["asha", "fifo"] = Field(
        "asha", description="asha stops the worse trials early; fifo runs all."
    )
    grace_period: Count = Field(1, description="Epochs that every trial gets.")
    reduction_factor: Annotated[int, Field(ge=2)] = Field(
        3, description="Of so many trials, one goes on."
    )


class Sweep(Section):
    """A search over any paths of the spec. The names are Ray Tune's."""

    space: dict[str, Domain] = Field(min_length=1, description="Spec path to domain.")
    num_samples: Count = Field(8, description="Trials, or repetitions of the grid.")
    max_concurrent_trials: Count | None = Field(
        None, description="Default: as many as the cluster can hold."
    )
    scheduler: SweepScheduler = Field(
        SweepScheduler(), description="A name, or a name with arguments."
    )

    _expand_names = field_validator("scheduler", mode="before")(named)


class AutoscalingConfig(Section):
    """Ray Serve's autoscaling of replicas."""

    min_replicas: int = Field(1, ge=0, description="Replicas that always run.")
    max_replicas: Count = Field(2, description="Most replicas.")
    target_ongoing_requests: Positive = Field(
        16.0, description="Requests in flight per replica to aim at."
    )
    upscale_delay_s: NotNegative = Field(
        2.0, description="Seconds of load before a replica is added."
    )
    downscale_delay_s: NotNegative = Field(
        60.0, description="Seconds of calm before one is removed."
    )
    look_back_period_s: Positive = Field(
        5.0, description="Seconds over which the load is averaged."
    )

    @model_validator(mode="after")
    def _ordered(self) -> AutoscalingConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) must not exceed max_replicas ({self.max_replicas})"
            )
        return self


class CanaryRule(Section):
    """When `raydc canary --follow` promotes a canary, and when it drops it."""

    min_requests: Count = Field(500, description="Requests that the canary must have had.")
    max_error_fraction: Fraction = Field(
        0.01, description="Largest fraction of its requests that may fail (5xx)."
    )
    max_latency_ratio: Positive = Field(
        2.0, description="Its p95 latency may be so many times the stable version's."
    )
    timeout_s: Positive = Field(
        3600.0, description="Seconds after which it is dropped as undecided."
    )


class Serve(Section):
    """The endpoint. Most names are Ray Serve's."""

    alias: str = Field(
        "production", pattern=r"^[A-Za-z][\w.-]*$", description="The alias that is served."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    autoscaling_config: AutoscalingConfig = AutoscalingConfig()
    max_ongoing_requests: Count = Field(256, description="Requests that a replica takes at a time.")
    max_queued_requests: Annotated[int, Field(ge=-1)] = Field(
        128, description="Requests that wait beside those; more are refused with 429. -1: no limit."
    )
    max_batch_size: Count = Field(
        64,
        description="Most requests, and most rows, of one forward pass; fewer where more are no faster.",
    )
    batch_wait_timeout_s: NotNegative = Field(0.0, description="How long a batch waits to fill up.")
    request_timeout_s: Positive = Field(30.0, description="Longest time that a request may take.")
    max_request_bytes: Count = Field(8 * 1024 * 1024, description="Largest request body.")
    max_request_rows: Count = Field(4096, description="Most rows of a request.")
    max_request_pixels: Count = Field(
        64 * 1024 * 1024, description="Most pixels that the images of a request may have together."
    )
    auth: Literal["token", "none"] = Field(
        "token",
        description="Who may ask: who has a token of the model (`raydc token`), or everybody.",
    )
    access_log: bool = Field(
        True, description="A line of JSON for each request, in Ray Serve's folder of logs."
    )
    optimize: Literal["none", "auto"] = Field(
        "none",
        description="auto: compiled, and in bfloat16 on CPUs that have it, where the golden rows allow; scores may "
        "differ from those of training by up to 0.02. none: bit for bit as trained.",
    )
    tls: bool = Field(
        False,
        description="Refused where true: TLS ends in front of the endpoint, see cluster/nginx.conf.",
    )
    canary: CanaryRule = CanaryRule()
    ray_actor_options: dict[str, Any] = Field(
        default_factory=lambda: {"num_cpus": 1}, description="Resources of a replica."
    )

    @property
    def is_local(self) -> bool:
        """Only this machine reaches it."""
        return self.host in ("127.0.0.1", "localhost", "::1")

    @field_validator("tls", mode="before")
    @classmethod
    def _ends_in_front(cls, value: Any) -> Any:
        if value is not False:
            raise ValueError(
                "the ingress of Ray Serve speaks plain HTTP: let TLS end in front of it, as in cluster/nginx.conf, and "
                "leave serve.tls out"
            )
        return value

    @field_validator("ray_actor_options")
    @classmethod
    def _are_resources(cls, options: dict[str, Any]) -> dict[str, Any]:
        own = options.get("resources", {})
        if not isinstance(own, dict):
            raise ValueError("resources must be a mapping of names to amounts")
        amounts = {**options, **own}
        kind = amounts.pop("accelerator_type", "")
        amounts.pop("resources", None)
        unknown = sorted(set(amounts) - {"num_cpus", "num_gpus", "memory", *own})
        if unknown or not isinstance(kind, str):
            raise ValueError(
                f"unknown {unknown or kind!r}; known: num_cpus, num_gpus, memory, resources, accelerator_type"
            )
        for name, amount in amounts.items():
            if (
                isinstance(amount, bool)
                or not isinstance(amount, int | float)
                or not 0 <= amount < math.inf
            ):
                raise ValueError(f"{name} must be a number of at least 0, not {amount!r}")
        return options


class Spec(Section):
    """One YAML file: from a data set to an answering endpoint."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][\w.-]*$", description="Name of the run and of the model."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of everything that is random.")
    storage: str = Field(
        "store", description="Folder or URI for data, runs and models; every node must reach it."
    )
    data: Data
    model: Model
    train: Train = Train()
    scaling: Scaling = Scaling()
    fault_tolerance: FaultTolerance = FaultTolerance()
    checkpoint: Checkpoint = Checkpoint()
    sweep: Sweep | None = None
    serve: Serve | None = None
