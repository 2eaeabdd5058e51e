"""What a replica is told, as `user_config`. Imports nothing heavy: the driver and Serve's controller read it too."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """What a replica is told; the fields beside the model are those of the spec's section `serve`."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    storage: str
    model: str
    alias: str
    version: int
    max_ongoing_requests: int
    max_queued_requests: int
    max_batch_size: int
    batch_wait_timeout_s: float
    request_timeout_s: float
    max_request_bytes: int
    device: str = "cpu"
    num_threads: int = 1

    @property
    def identity(self) -> tuple[object, ...]:
        """What a loaded model depends on."""
        return self.storage, self.model, self.version, self.device, self.num_threads
