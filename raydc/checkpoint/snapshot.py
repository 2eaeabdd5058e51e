"""Copies of a run's state in host memory, laid out as the files of a checkpoint. Runs in rank 0.

The tensors of a file lie in one buffer, as safetensors lays them out, and are overwritten in
place. A step waits for these copies and for nothing else: what remains for the thread that writes
(hashing, writing, fsync) does not hold the GIL, so steps continue meanwhile. The state
of the optimiser, two thirds of the bytes with Adam, changes only at the end of a step. On a CPU,
therefore, the writing thread copies it too, while the next step computes its gradients. Weights are
copied at once, because some networks change their own weights in a forward pass.
"""

from __future__ import annotations

import functools
import io
import json
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor

from raydc.checkpoint.value_tree import split_tensors
from raydc.storage import Content, sha256

if TYPE_CHECKING:
    from raydc.checkpoint.state import Parts

# Length of the header of a safetensors file, in front of the header.
_LENGTH_BYTES = 8
# One copy is made while another is written. More are needed, and allocated, only while storage
# refuses: it then holds the refused one, the best and the newest, and peer memory a fourth.
_NUM_SLOTS = 5

Layout = list[tuple[str, torch.Size, torch.dtype]]


class TensorImage:
    """The bytes of a safetensors file, in a buffer that is reused.

    Args:
        tensors: Tensors by name; only their shapes and types count.
        pinned: Whether to lock the buffer in memory, which a fast copy from a GPU needs.
    """

    def __init__(self, tensors: Mapping[str, Tensor], pinned: bool) -> None:
        self.layout = layout_of(tensors)
        # safetensors itself decides on the layout: it saves zeros, and each tensor is a view of
        # the place of its zeros.
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
        """The bytes of the file, not copied."""
        return self._buffer.numpy().data

    @torch.no_grad()
    def copy(self, tensors: Mapping[str, Tensor]) -> None:
        """Starts to copy tensors of this layout.

        The copy from a GPU is complete once the device is synchronised.
        """
        if self._views:
            torch._foreach_copy_(self._views, list(tensors.values()), non_blocking=True)


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """Names, shapes and types: an image can be reused if they are equal."""
    return [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]


class HostCopy:
    """The state of a run after `step` steps, in host memory.

    Several threads use one copy. It starts with one user, and its memory is reused when the
    last one has called `release`.

    Args:
        parts: The live state, which `copy_rest` reads until it is done.
        meta: JSON values for the manifest of the checkpoint.
        files: Content by file name; incomplete until `copy_rest` has run.
        slot: Owner of the memory behind the files, which becomes free with the last user.
        copy_rest: Copies the tensors that are not copied yet.

    Attributes:
        step: Number of completed steps in the copied state.
        best_step: Step of the best checkpoint so far, which stays in storage.
        is_safe: Set once the copy has arrived at a safe place.
        place: Where it arrived first: storage or memory; None before.
    """

    def __init__(
        self,
        parts: Parts,
        meta: Mapping[str, Any],
        files: dict[str, Content],
        slot: _Slot,
        copy_rest: Callable[[], None],
    ) -> None:
        self.step = parts.state.step
        self.best_step = parts.state.best_step
        self.meta = dict(meta)
        self.is_safe = threading.Event()
        self.place: str | None = None
        self._files = files
        self._slot = slot
        self._copy_rest: Callable[[], None] | None = copy_rest
        self._num_users = 1
        self._hashes: dict[str, str] = {}
        # Two locks: a step that releases its copy must not wait while another thread hashes it.
        self._users_lock = threading.Lock()
        self._work_lock = threading.Lock()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to copy."""
        return self._copy_rest is None

    def complete(self) -> None:
        """Copies what is left, or waits for the thread that does.

        Must be called before the optimiser changes its state.
        """
        # Checked without the lock first, which another thread holds while it hashes the files.
        if self._copy_rest is None:
            return
        with self._work_lock:
            if self._copy_rest is not None:
                self._copy_rest()
                self._copy_rest = None

    @property
    def files(self) -> dict[str, Content]:
        """Complete content by name. Valid until the last user has released the copy."""
        self.complete()
        return self._files

    def mark_safe(self, place: str) -> None:
        """Notes that the copy has arrived in storage or in memory."""
        self.place = self.place or place
        self.is_safe.set()

    def hashes(self) -> dict[str, str]:
        """sha256 of each file, computed once."""
        files = self.files
        with self._work_lock:
            if not self._hashes:
                self._hashes = {name: sha256(content) for name, content in files.items()}
            return self._hashes

    def hold(self) -> None:
        """Adds a user, who must call `release`."""
        with self._users_lock:
            self._num_users += 1

    def release(self) -> None:
        """Ends the use by one user."""
        with self._users_lock:
            self._num_users -= 1
            if self._num_users == 0:
                self._slot.is_free.set()


class _Slot:
    """Memory for one copy."""

    def __init__(self) -> None:
        self.is_free = threading.Event()
        self.is_free.set()
        self.images: dict[str, TensorImage] = {}

    def image(self, name: str, tensors: Mapping[str, Tensor], pinned: bool) -> TensorImage:
        image = self.images.get(name)
        # An optimiser has no state before its first step, so its layout changes once.
        if image is None or image.layout != layout_of(tensors):
            image = self.images[name] = TensorImage(tensors, pinned)
        return image


class Snapshots:
    """Memory for copies of a run's state.

    Args:
        device: Device of the network; copies from a GPU use pinned memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slots = tuple(_Slot() for _ in range(_NUM_SLOTS))

    def take(
        self, parts: Parts, small_files: Mapping[str, bytes], meta: Mapping[str, Any]
    ) -> HostCopy:
        """Copies a state to host memory.

        Args:
            parts: The live state, which the next step changes.
            small_files: Files of the checkpoint that are copied as they are, by file name.
            meta: JSON values for the manifest of the checkpoint.

        Returns:
            The copy, with one user. It must be complete before the optimiser takes its next step.
        """
        slot = next(slot for slot in self._slots if slot.is_free.is_set())
        pinned = self._device.type == "cuda"
        tensors: dict[str, Tensor] = {}
        plain_values = split_tensors(parts.step_state, tensors)
        model = slot.image("model", parts.weights, pinned)
        optimizer = slot.image("optimizer", tensors, pinned)
        files: dict[str, Content] = {
            "model.safetensors": model.content,
            "optimizer.safetensors": optimizer.content,
            "optimizer.pt": _saved(plain_values),
            **small_files,
        }
        slot.is_free.clear()
        copy = HostCopy(parts, meta, files, slot, functools.partial(optimizer.copy, tensors))
        model.copy(parts.weights)
        if pinned:
            # These copies run on the GPU's stream: one synchronisation waits for all of them.
            copy.complete()
            torch.cuda.synchronize(self._device)
        return copy


def _saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()
