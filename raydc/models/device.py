"""The device of a process, and the settings that the bits of a result depend on besides the spec."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator

import torch

from raydc.errors import TrainError


def choose(use_gpu: bool | str) -> torch.device:
    """The device of a process: a GPU where there is one and `scaling.use_gpu` does not refuse it."""
    return torch.device("cuda", 0) if use_gpu and torch.cuda.is_available() else torch.device("cpu")


def name_of(device: torch.device) -> str:
    """The GPU, or the vector extensions of the CPU: what the last bits of a result depend on."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )


def environment(device: torch.device, num_threads: int) -> dict[str, str | int]:
    """Everything on a machine that can change the last bits of a result."""
    libraries = {
        name: importlib.metadata.version(name) for name in ("raydc", "torch", "ray", "numpy")
    }
    return {
        "python": platform.python_version(),
        **libraries,
        "device": name_of(device),
        "num_threads": num_threads,
    }


@contextlib.contextmanager
def settings(num_threads: int, device: torch.device, exact: bool) -> Iterator[None]:
    """Fixes, for the time of a run, what a process can fix of that.

    Args:
        num_threads: CPU threads.
        device: Where the run computes.
        exact: Whether an operation that has no deterministic form is an error; else it is a warning.

    Raises:
        TrainError: The network has such an operation.
    """
    threads_before, mode_before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(num_threads)
    # On a CPU as well: there the gradient of indexing depends on how its threads meet.
    torch.use_deterministic_algorithms(True, warn_only=not exact)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # It finds bugs, slowly.
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        operation = str(error).split()[0]
        raise TrainError(
            f"the network uses {operation}, which has no deterministic form on {name_of(device)}",
            "Use another operation in its place, or set train.exact: false and live with last bits that vary.",
        ) from error
    finally:
        torch.set_num_threads(threads_before)
        torch.set_deterministic_debug_mode(mode_before)
