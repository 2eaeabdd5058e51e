"""The state of a run in host memory, laid out as the files of a checkpoint.

The tensors of a file lie in one buffer as safetensors lays them out, and are copied over in place. A step waits for
these copies and nothing else: what is left for the thread that writes (hashing, writing, fsync) does not hold Python's
global lock, so the steps go on beside it. The state of the optimiser, two thirds of the bytes with Adam, changes at the
end of a step only: on a CPU that thread copies it too, while the next step computes its gradients. Weights are not left
to it: networks exist that change their own in a forward pass.
"""

from __future__ import annotations

import functools
import io
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from raydc.storage import Content, sha256

_LENGTH_BYTES = 8  # Of the header of a safetensors file, in front of it.
_TENSOR = "__tensor__"


class TensorImage:
    """The bytes of a safetensors file.

    Args:
        tensors: By name; only their shapes and types count.
        pinned: Lock the buffer in memory, which a copy from a GPU needs to be fast.
    """

    def __init__(self, tensors: Mapping[str, Tensor], pinned: bool) -> None:
        self.layout = layout_of(tensors)
        empty = {
            name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()
        }
        content = torch.frombuffer(bytearray(safetensors.torch.save(empty)), dtype=torch.uint8)
        self._buffer = content.pin_memory() if pinned else content
        header_bytes = int.from_bytes(self.content[:_LENGTH_BYTES], "little")
        start = _LENGTH_BYTES + header_bytes
        entries = json.loads(bytes(self.content[_LENGTH_BYTES:start]))
        self._views = []
        for name, tensor in tensors.items():
            first, end = entries[name]["data_offsets"]
            self._views.append(
                self._buffer[start + first : start + end].view(tensor.dtype).view(tensor.shape)
            )

    @property
    def content(self) -> memoryview:
        """The file, not copied."""
        return self._buffer.numpy().data

    @torch.no_grad()
    def copy(self, tensors: Mapping[str, Tensor]) -> None:
        """Starts to copy tensors of this layout; those of a GPU are there once the device is synchronised."""
        if self._views:
            torch._foreach_copy_(self._views, list(tensors.values()), non_blocking=True)


def layout_of(tensors: Mapping[str, Tensor]) -> list[tuple[str, torch.Size, torch.dtype]]:
    """What has to be equal for an image to be used again."""
    return [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]


@dataclass
class HostCopy:
    """The state of a run after `step` steps, in host memory.

    Attributes:
        step: Steps done.
        meta: JSON values that describe it.
        best_step: Step of the best checkpoint so far, which stays in storage.
        is_safe: Set once it has arrived somewhere.
        place: Where it arrived first.
    """

    step: int
    meta: dict[str, Any]
    best_step: int | None
    _files: dict[str, Content]
    _slot: _Slot
    _rest: Callable[[], None] | None = None
    _num_users: int = 1
    _hashes: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _work: threading.Lock = field(default_factory=threading.Lock)
    is_safe: threading.Event = field(default_factory=threading.Event)
    place: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be copied."""
        return self._rest is None

    def complete(self) -> None:
        """Copies what is left, or waits for whoever does: before the optimiser changes its state."""
        if self._rest is None:
            return  # Without the lock, which is held while the files are hashed.
        with self._work:
            if self._rest is not None:
                self._rest()
                self._rest = None

    @property
    def files(self) -> dict[str, Content]:
        """Content by name, complete. The buffers behind it are used again once everybody has let go of the copy."""
        self.complete()
        return self._files

    def arrived(self, place: str) -> None:
        """It is in storage, or in memory."""
        self.place = self.place or place
        self.is_safe.set()

    def hashes(self) -> dict[str, str]:
        """sha256 of each file, computed once."""
        files = self.files
        with (
            self._work
        ):  # Not the lock of `let_go`, for which a step would wait as long as this takes.
            if not self._hashes:
                self._hashes = {name: sha256(content) for name, content in files.items()}
            return self._hashes

    def hold(self) -> None:
        """One more user, who must `let_go`."""
        with self._lock:
            self._num_users += 1

    def let_go(self) -> None:
        """This user has done with it."""
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0:
                self._slot.is_free.set()


class _Slot:
    """The images of one copy."""

    def __init__(self) -> None:
        self.is_free = threading.Event()
        self.is_free.set()
        self.images: dict[str, TensorImage] = {}

    def image(self, name: str, tensors: Mapping[str, Tensor], pinned: bool) -> TensorImage:
        image = self.images.get(name)
        if image is None or image.layout != layout_of(tensors):
            image = self.images[name] = TensorImage(tensors, pinned)
        return image


class Snapshots:
    """Room for copies of a run's state.

    One can be made while another is written; a third is needed, and allocated, only while storage refuses one.

    Args:
        device: Of the network.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slots = (_Slot(), _Slot(), _Slot())

    def take(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        step_state: Any,
        others: Mapping[str, bytes],
        meta: Mapping[str, Any],
        best_step: int | None,
    ) -> HostCopy:
        """Copies a state to host memory.

        Args:
            step: Steps done.
            weights: State of the network.
            step_state: Of `Step.state`: tensors and plain values, nested.
            others: Files that are small, as they are.
            meta: JSON values that describe the state.
            best_step: Step of the best checkpoint so far.

        Returns:
            The copy, with one user. It must be complete before the optimiser takes its next step.
        """
        slot = next(slot for slot in self._slots if slot.is_free.is_set())
        pinned = self._device.type == "cuda"
        tensors: dict[str, Tensor] = {}
        rest = _split(step_state, "", tensors)
        model, optimizer = (
            slot.image("model", weights, pinned),
            slot.image("optimizer", tensors, pinned),
        )
        files: dict[str, Content] = {
            "model.safetensors": model.content,
            "optimizer.safetensors": optimizer.content,
            "optimizer.pt": _saved(rest),
            **others,
        }
        slot.is_free.clear()
        copy = HostCopy(
            step, dict(meta), best_step, files, slot, functools.partial(optimizer.copy, tensors)
        )
        model.copy(weights)
        if pinned:
            copy.complete()
            torch.cuda.synchronize(self._device)
        return copy


def _saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A copy of nested values with each tensor replaced by its name; the tensors are added to `tensors`."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {_TENSOR: path}
    if isinstance(value, dict):
        copied = {
            key: _split(item, f"{path}.{key}" if path else str(key), tensors)
            for key, item in value.items()
        }
        return copied if type(value) is dict else type(value)(copied)
    if isinstance(value, list | tuple):
        return type(value)(
            _split(item, f"{path}.{number}", tensors) for number, item in enumerate(value)
        )
    return value


def join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nested values that were split, with the tensors in their places."""
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        joined = {key: join(item, tensors) for key, item in value.items()}
        return joined if type(value) is dict else type(value)(joined)
    if isinstance(value, list | tuple):
        return type(value)(join(item, tensors) for item in value)
    return value
