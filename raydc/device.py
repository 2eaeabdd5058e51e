"""The device of a process, and the settings that the bits of a result depend on besides the spec."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator

import torch


def choose(use_gpu: bool | str) -> torch.device:
    """The device of a process: a GPU where there is one and `scaling.use_gpu` does not refuse it."""
    return torch.device("cuda", 0) if use_gpu and torch.cuda.is_available() else torch.device("cpu")


def name_of(device: torch.device) -> str:
    """The GPU, or the vector extensions of the CPU: what the last bits of a result depend on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()


def environment(device: torch.device, num_threads: int) -> dict[str, str | int]:
    """Everything on a machine that can change the last bits of a result."""
    libraries = {name: importlib.metadata.version(name) for name in ("raydc", "torch", "ray", "numpy")}
    return {"python": platform.python_version(), **libraries, "device": name_of(device), "num_threads": num_threads}


@contextlib.contextmanager
def settings(num_threads: int, device: torch.device) -> Iterator[None]:
    """Fixes, for the time of a run, what a process can fix of that."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
