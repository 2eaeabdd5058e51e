"""The device of a process, and the settings outside the spec that change bits of a result.

Used in workers, and in the driver for runs without workers.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator

import torch

from raydc.errors import TrainError

_CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
# Eight workspaces of 4 MiB: with a fixed set of them, cuBLAS adds in a fixed order.
_CUBLAS_WORKSPACES = ":4096:8"
# torch's compiler reads it when it is imported.
_COMPILER_VARIABLE = "TORCHINDUCTOR_DETERMINISTIC"
# What allocators of CPUs, and libraries of GPUs that want memory for a handle, write into a plain
# RuntimeError.
_MEMORY_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "STATUS_ALLOC_FAILED",
)


def choose(use_gpu: bool | str) -> torch.device:
    """Chooses the device of a process.

    Args:
        use_gpu: `scaling.use_gpu`: False refuses a GPU, `auto` takes one if there is one.
    """
    # Ray shows a worker its own GPU only, so the first one is always right.
    return torch.device("cuda", 0) if use_gpu and torch.cuda.is_available() else torch.device("cpu")


def name_of(device: torch.device) -> str:
    """Name of the GPU, or of the vector extensions of the CPU, on which last bits depend."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error means that a smaller batch may have enough memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(part in text for part in _MEMORY_MESSAGES)


def environment(device: torch.device, num_threads: int) -> dict[str, str | int]:
    """Everything on a machine that can change the last bits of a result.

    Args:
        device: Device that the run computes on, whose name is recorded.
        num_threads: CPU threads of a worker; sums are split among them.
    """
    libraries = {
        name: importlib.metadata.version(name)
        for name in ("raydc", "torch", "torchvision", "ray", "numpy")
    }
    return {
        "python": platform.python_version(),
        **libraries,
        "device": name_of(device),
        "num_threads": num_threads,
    }


@contextlib.contextmanager
def settings(num_threads: int, device: torch.device, exact: bool) -> Iterator[None]:
    """Fixes what a process can fix of `environment`, and puts it back when the block ends.

    Args:
        num_threads: CPU threads that torch may use inside the block.
        device: Device that the run computes on; a GPU gets settings of its libraries too.
        exact: Whether an operation without a deterministic form is an error or only a warning.

    Raises:
        TrainError: The network has such an operation.
    """
    threads_before, mode_before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    memory = torch.utils.deterministic
    fills_before = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    compiler_before = os.environ.get(_COMPILER_VARIABLE)
    with gpu_settings(device) if device.type == "cuda" else contextlib.nullcontext():
        torch.set_num_threads(num_threads)
        # On a CPU as well: there the gradient of indexing depends on the order of its threads.
        _use_deterministic_algorithms(warn_only=not exact)
        # Filling memory with NaN finds bugs, but takes time in every step.
        memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        except RuntimeError as error:
            if "does not have a deterministic implementation" not in str(error):
                raise
            operation = str(error).split()[0]
            raise TrainError(
                f"the network uses {operation}, which has no deterministic form on "
                f"{name_of(device)}",
                "Use another operation in its place, or set train.exact: false and accept last "
                "bits that vary.",
            ) from error
        finally:
            torch.set_num_threads(threads_before)
            torch.set_deterministic_debug_mode(mode_before)
            memory.fill_uninitialized_memory = fills_before  # type: ignore[attr-defined]
            if compiler_before is None:
                os.environ.pop(_COMPILER_VARIABLE, None)


def _use_deterministic_algorithms(warn_only: bool) -> None:
    """Does what the function of this name of torch does, and does not import its compiler.

    The import takes as long as that of torch itself, in every worker that starts.
    """
    if "torch._inductor" in sys.modules:
        torch.use_deterministic_algorithms(True, warn_only=warn_only)
        return
    # For a network that is compiled later, in this process.
    os.environ.setdefault(_COMPILER_VARIABLE, "1")
    torch.set_deterministic_debug_mode("warn" if warn_only else "error")


@contextlib.contextmanager
def gpu_settings(device: torch.device) -> Iterator[None]:
    """Makes a GPU the current one and its libraries deterministic, inside the block.

    Args:
        device: Device of the type `cuda`, which becomes the current one.
    """
    variable_before = os.environ.get(_CUBLAS_VARIABLE)
    # Before anything touches the GPU: cuBLAS reads it when its first handle is made.
    os.environ.setdefault(_CUBLAS_VARIABLE, _CUBLAS_WORKSPACES)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    device_before = torch.cuda.current_device()
    try:
        torch.cuda.set_device(device)
        cudnn.deterministic = True
        # A benchmark picks the fastest algorithm of the moment, which may be another one next time.
        cudnn.benchmark = False
        # TF32 drops 13 of the 23 bits of a mantissa.
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
        torch.cuda.set_device(device_before)
        if variable_before is None:
            os.environ.pop(_CUBLAS_VARIABLE, None)


@contextlib.contextmanager
def fixed_threads(num_threads: int) -> Iterator[None]:
    """Sets torch's number of threads inside the block; the setting is global to the process."""
    before = torch.get_num_threads()
    if before == num_threads:
        yield
        return
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
