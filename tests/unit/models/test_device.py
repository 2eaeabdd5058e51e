"""The settings that the bits of a result depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raydc.errors import TrainError
from raydc.models import device

CPU = torch.device("cpu")


def put() -> None:
    """An operation that has no deterministic form on any device."""
    torch.zeros(5).put_(torch.tensor([0]), torch.tensor([1.0]))


def test_operation_without_a_deterministic_form_is_named() -> None:
    message = "the network uses put_, which has no deterministic form on"
    with pytest.raises(TrainError, match=message) as caught, device.settings(1, CPU, exact=True):
        put()
    assert "train.exact: false" in (caught.value.hint or "")
    with (
        pytest.warns(UserWarning, match="put_ does not have a deterministic"),
        device.settings(1, CPU, exact=False),
    ):
        put()
    with pytest.raises(RuntimeError, match="another"), device.settings(1, CPU, exact=True):
        raise RuntimeError("another")


def test_settings_are_put_back() -> None:
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    with device.settings(before[0] + 1, CPU, exact=True):
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (
            before[0] + 1,
            True,
        )
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_gradient_of_indexing_does_not_depend_on_how_threads_meet() -> None:
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
