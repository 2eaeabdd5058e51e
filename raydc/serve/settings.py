"""Settings of a replica, sent as `user_config`. Read by replica, driver and Serve's controller."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict

_STRICT = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TrafficShare(BaseModel):
    """A second version and the fraction of requests, 0 to 1, that it gets."""

    model_config = _STRICT

    version: int
    fraction: float

    def has(self, key: str) -> bool:
        """Whether a key belongs to the fraction; it stays in when the fraction grows."""
        digest = hashlib.blake2b(
            f"{self.version}:{key}".encode(errors="replace"), digest_size=8
        ).digest()
        return int.from_bytes(digest) < self.fraction * 2**64


class Traffic(BaseModel):
    """Versions that answer: one, and a canary for some requests. A shadow only gets copies."""

    model_config = _STRICT

    version: int
    canary: TrafficShare | None = None
    shadow: TrafficShare | None = None

    @property
    def versions(self) -> tuple[int, ...]:
        """All versions without repetitions, the stable one first."""
        return tuple(
            dict.fromkeys(
                [self.version, *(side.version for side in (self.canary, self.shadow) if side)]
            )
        )


class Settings(BaseModel):
    """Settings of a replica: the model, its versions, and fields of the spec's section `serve`.

    A change of versions comes in two parts, so that all replicas switch at one instant. The first
    has the new versions in `staged`, which are loaded and checked. The second has the new
    `traffic`, the traffic `before` it, and the time of the switch, `since_s`.
    """

    model_config = _STRICT

    storage: str
    model: str
    alias: str
    traffic: Traffic
    staged: tuple[int, ...] = ()
    before: Traffic | None = None
    since_s: float = 0.0
    """Unix time from which `traffic` holds; until then `before` does."""
    max_ongoing_requests: int
    max_queued_requests: int
    max_batch_size: int
    batch_wait_timeout_s: float
    request_timeout_s: float
    max_request_bytes: int
    max_request_rows: int
    max_request_pixels: int
    auth: str = "token"
    access_log: bool = True
    device: str = "cpu"
    num_threads: int = 1
    optimize: str = "none"
    # Of a language model: `serve.engine` and `serve.generation` of the spec.
    engine: str = "raydc"
    precision: str = "fp32"
    num_gpus: float = 0.0
    num_slots: int = 8
    max_tokens: int = 1024
    length: int | None = None
    num_adapters: int = 0
    stream_timeout_s: float = 600.0

    def at(self, now_s: float) -> Traffic:
        """The traffic in force at a time (Unix, seconds)."""
        return self.traffic if self.before is None or now_s >= self.since_s else self.before

    def versions_at(self, now_s: float) -> tuple[int, ...]:
        """All versions that a replica holds at a time, those that answer then first."""
        held = [*self.at(now_s).versions, *self.traffic.versions, *self.staged]
        return tuple(dict.fromkeys(held))

    @property
    def request_timeout_ms(self) -> int:
        """`request_timeout_s` as HAProxy takes it: at most a day."""
        return int(1000 * min(self.request_timeout_s, 86400.0))

    @property
    def identity(self) -> tuple[object, ...]:
        """Settings on which a loaded model depends, besides its version."""
        loaded = self.storage, self.model, self.device, self.num_threads, self.optimize
        return *loaded, self.engine, self.num_gpus

    @property
    def batching(self) -> tuple[object, ...]:
        """Settings on which a batcher or an engine depends, besides its model."""
        if self.engine == "vllm":
            # It reserves memory for adapters when it starts, and batches of rows do not concern it.
            return self.num_slots, self.length, self.precision, self.num_adapters
        return self.max_batch_size, self.batch_wait_timeout_s, self.num_slots, self.length
