"""The whole spec, and its sections `sweep` and `serve`. Pure."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raydc.spec.augmentation import Augment
from raydc.spec.base import Count, Fraction, NotNegative, Positive, Section
from raydc.spec.cleaning import Clean, ColumnCleaning, Split
from raydc.spec.data import Data, IdxFiles, Sources
from raydc.spec.forecast_models import LinearForecaster, TemporalConvolution
from raydc.spec.language import Generation
from raydc.spec.model import (
    Builder,
    Cnn,
    Factorisation,
    Fusion,
    Linear,
    Mlp,
    Model,
    Torchvision,
    TwoTowers,
    model_kind,
)
from raydc.spec.sequence_models import Decoder, HuggingFace, Recurrent, Transformer
from raydc.spec.space import Domain
from raydc.spec.sweep_section import Sweep, SweepScheduler
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
    "ColumnCleaning",
    "Data",
    "Decoder",
    "Domain",
    "EarlyStop",
    "Factorisation",
    "FaultTolerance",
    "Fusion",
    "Generation",
    "HuggingFace",
    "IdxFiles",
    "Linear",
    "LinearForecaster",
    "LrScheduler",
    "Mlp",
    "Model",
    "Optimizer",
    "Recurrent",
    "Scaling",
    "Section",
    "Serve",
    "Sources",
    "Spec",
    "Split",
    "Sweep",
    "SweepScheduler",
    "TemporalConvolution",
    "Torchvision",
    "Train",
    "Transformer",
    "TwoTowers",
    "WorkerRange",
    "model_kind",
]


_HOSTS = ("127.0.0.1", "localhost", "0.0.0.0", "::")


class AutoscalingConfig(Section):
    """Ray Serve's autoscaling of replicas."""

    min_replicas: int = Field(
        1, ge=0, description="Replicas that always run; 0: start on the first request."
    )
    max_replicas: Count = Field(2, description="Most replicas.")
    target_ongoing_requests: Positive = Field(
        16.0, description="Requests in flight per replica that autoscaling aims at."
    )
    upscale_delay_s: NotNegative = Field(
        2.0, description="Seconds of load before a replica is added."
    )
    downscale_delay_s: NotNegative = Field(
        60.0, description="Seconds of low load before a replica is removed."
    )
    look_back_period_s: Positive = Field(
        5.0, description="Seconds over which the load is averaged."
    )

    @model_validator(mode="after")
    def _ordered(self) -> AutoscalingConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) must not exceed max_replicas "
                f"({self.max_replicas})"
            )
        return self


class CanaryRule(Section):
    """When `raydc canary --follow` promotes or drops a canary."""

    min_requests: Count = Field(500, description="Requests that the canary must have answered.")
    max_error_fraction: Fraction = Field(
        0.01, description="Largest fraction of its requests that may fail (5xx)."
    )
    max_latency_ratio: Positive = Field(
        2.0, description="Largest ratio of its p95 latency to that of the stable version."
    )
    timeout_s: Positive = Field(
        3600.0, description="Seconds after which an undecided canary is dropped."
    )


class Serve(Section):
    """The endpoint. Most names are Ray Serve's."""

    alias: str = Field(
        "production",
        pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$",
        max_length=100,
        description="Alias whose version is served.",
    )
    # Only this machine by default: an endpoint is opened to a network on purpose.
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on: 127.0.0.1 or localhost for this machine, 0.0.0.0 or :: "
        "for all of its addresses.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    autoscaling_config: AutoscalingConfig = AutoscalingConfig()
    max_ongoing_requests: Count = Field(
        256, description="Requests that a replica works on at a time."
    )
    max_queued_requests: Annotated[int, Field(ge=-1)] = Field(
        128,
        description="Requests that wait for a replica; more are refused with 429. -1: no limit.",
    )
    max_batch_size: Count = Field(
        64,
        description="Maximum rows in a forward pass; fewer if larger batches are no faster.",
    )
    batch_wait_timeout_s: NotNegative = Field(
        0.0, description="Seconds that a batch waits for more requests."
    )
    request_timeout_s: Positive = Field(
        30.0, description="Seconds after which a request without an answer fails with 408."
    )
    # Limits that hold before the work that they limit: bytes when a body is read, rows when it is
    # parsed, pixels before an image is decoded.
    max_request_bytes: Count = Field(8 * 1024 * 1024, description="Largest request body.")
    max_request_rows: Count = Field(4096, description="Most rows of a request.")
    max_request_pixels: Count = Field(
        64 * 1024 * 1024, description="Most pixels of all images of a request together."
    )
    auth: Literal["token", "none"] = Field(
        "token",
        description="Access control: token needs a token of the model (`raydc token`); none is "
        "open.",
    )
    access_log: bool = Field(
        True, description="Write a line of JSON for each request to Ray Serve's log folder."
    )
    optimize: Literal["none", "auto"] = Field(
        "none",
        description="auto: compile the network, with bfloat16 on CPUs that support it, if the "
        "golden rows allow; scores may differ from training by up to 0.02. none: bit for bit as "
        "trained.",
    )
    direct: Literal["auto", "off"] = Field(
        "auto",
        description="auto: requests go from uvicorn straight to raydc, if a check at the start of "
        "each replica passes. off: public Ray Serve only, slower and with fewer limits "
        "(docs/direct.md).",
    )
    tls: bool = Field(
        False,
        description="Always false: TLS ends in front of the endpoint, see cluster/nginx.conf.",
    )
    canary: CanaryRule = CanaryRule()
    engine: Literal["raydc", "vllm"] = Field(
        "raydc",
        description="What continues texts. raydc: its own slots of a fixed shape, so that no "
        "answer depends on the others; transformers computes pretrained layers. vllm: vLLM, for "
        "large pretrained decoders on GPUs; the last bits of its scores may depend on what is "
        "computed with them. Needs `pip install 'raydc[language,vllm]'` where replicas run "
        "(docs/howto/serve-with-vllm.md).",
    )
    generation: Generation = Generation()
    ray_actor_options: dict[str, Any] = Field(
        default_factory=lambda: {"num_cpus": 1}, description="Resources of a replica."
    )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the endpoint."""
        return self.host in ("127.0.0.1", "localhost")

    @field_validator("host")
    @classmethod
    def _reaches_replicas(cls, host: str) -> str:
        # Ray Serve binds its replicas to this address too, and HAProxy reaches those of its own
        # host at 127.0.0.1 only: with another address the endpoint would never be ready.
        if host not in _HOSTS:
            raise ValueError(
                f"{host!r} cannot be served: Ray Serve reaches its replicas at 127.0.0.1 only. "
                "127.0.0.1 is for clients on this machine; 0.0.0.0 (or ::) is for those on "
                "others, and a firewall or nginx (cluster/nginx.conf) says for which"
            )
        return host

    @field_validator("tls", mode="before")
    @classmethod
    def _ends_in_front(cls, value: Any) -> Any:
        if value is not False:
            raise ValueError(
                "the proxy of Ray Serve speaks plain HTTP: terminate TLS in front of it, as in "
                "cluster/nginx.conf, and leave serve.tls out"
            )
        return value

    @field_validator("ray_actor_options")
    @classmethod
    def _are_resources(cls, options: dict[str, Any]) -> dict[str, Any]:
        # A wrong name would reach Ray only after training, when the replica starts.
        own = options.get("resources", {})
        if not isinstance(own, dict):
            raise ValueError("resources must be a mapping of names to amounts")
        amounts = {**options, **own}
        kind = amounts.pop("accelerator_type", "")
        amounts.pop("resources", None)
        unknown = sorted(set(amounts) - {"num_cpus", "num_gpus", "memory", *own})
        if unknown or not isinstance(kind, str):
            raise ValueError(
                f"unknown {unknown or kind!r}; known: num_cpus, num_gpus, memory, resources, "
                "accelerator_type"
            )
        for name, amount in amounts.items():
            if (
                isinstance(amount, bool)
                or not isinstance(amount, int | float)
                or not 0 <= amount < math.inf
            ):
                raise ValueError(f"{name} must be a number of at least 0, not {amount!r}")
        return options

    @property
    def num_threads(self) -> int:
        """Threads of a forward pass of a replica on a CPU."""
        return max(1, int(self.ray_actor_options.get("num_cpus", 1)))


class Spec(Section):
    """One YAML file: from a data set to an answering endpoint."""

    name: str = Field(
        # ASCII: it is a tag of metrics and a part of URLs. Files get names that are longer.
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        max_length=100,
        description="Name of the run and of the model.",
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
