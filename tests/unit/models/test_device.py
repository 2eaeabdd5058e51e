"""The settings that the bits of a result depend on."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from torch import Tensor

from raydc.errors import TrainError
from raydc.models import device

CPU = torch.device("cpu")


def put_values() -> None:
    """An operation that has no deterministic form on any device."""
    torch.zeros(5).put_(torch.tensor([0]), torch.tensor([1.0]))


def test_settings_name_an_operation_without_a_deterministic_form() -> None:
    message = "the network uses put_, which has no deterministic form on"
    with pytest.raises(TrainError, match=message) as caught, device.settings(1, CPU, exact=True):
        put_values()
    assert "train.exact: false" in (caught.value.hint or "")
    with (
        pytest.warns(UserWarning, match="put_ does not have a deterministic"),
        device.settings(1, CPU, exact=False),
    ):
        put_values()
    with pytest.raises(RuntimeError, match="another"), device.settings(1, CPU, exact=True):
        raise RuntimeError("another")


def test_settings_are_put_back_when_the_block_ends() -> None:
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    with device.settings(before[0] + 1, CPU, exact=True):
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (
            before[0] + 1,
            True,
        )
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_settings_make_a_compiler_that_is_loaded_later_deterministic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "torch._inductor", raising=False)
    name = "TORCHINDUCTOR_DETERMINISTIC"
    monkeypatch.delenv(name, raising=False)
    with device.settings(1, CPU, exact=True):
        assert os.environ[name] == "1"
        assert torch.get_deterministic_debug_mode() == 2
    assert name not in os.environ
    monkeypatch.setenv(name, "0")
    with device.settings(1, CPU, exact=False):
        assert torch.get_deterministic_debug_mode() == 1
    assert os.environ[name] == "0", "the user's own stays"


def test_settings_make_the_gradient_of_indexing_repeatable() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(50, 16, requires_grad=True)
    rows, weights = (
        torch.randint(0, 50, (50_000,), generator=generator),
        torch.randn(50_000, 16, generator=generator),
    )

    def gradient() -> Tensor:
        return torch.autograd.grad((table[rows] * weights).sum(), table)[0]

    with device.settings(2, CPU, exact=True):
        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(10))


def test_gpu_settings_set_cublas_first_and_put_all_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is needed: the flags of cuDNN and cuBLAS exist without one."""
    selected: list[tuple[int, str | None]] = []

    def select(index: int | torch.device) -> None:
        index = index if isinstance(index, int) else index.index
        selected.append((index, os.environ.get("CUBLAS_WORKSPACE_CONFIG")))

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    monkeypatch.setattr("torch.cuda.set_device", select)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def flags() -> tuple[bool, ...]:
        return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32

    before = flags()
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = True
    changed = flags()
    try:
        with device.gpu_settings(torch.device("cuda", 0)):
            assert flags() == (True, False, False, False)
            assert selected == [(0, ":4096:8")]
        assert flags() == changed
        assert selected[1:] == [(3, ":4096:8")]
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def test_gpu_settings_keep_a_cublas_setting_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.set_device", lambda _: None)
    with device.gpu_settings(torch.device("cuda", 0)):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
