"""Networks of raydc's own, by section of the spec."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from signatures import COLOUR, GREY, PRICE, TABLE, TINY, make_rows

from raydc import models
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.spec.model import Cnn, Linear, Mlp


@pytest.mark.parametrize(
    "signature", [GREY, TINY, COLOUR, TABLE, PRICE], ids=lambda s: f"{s.task}-{s.shape}"
)
@pytest.mark.parametrize(
    "model", [Linear(name="linear"), Mlp(name="mlp", depth=3, width=8), Cnn(name="cnn")]
)
def test_build_gives_one_output_per_class_or_value(model: Any, signature: Signature) -> None:
    if isinstance(model, Cnn) and signature.kind == "vector":
        with pytest.raises(
            SpecError, match="cnn takes images, but the rows are vectors of 5 numbers"
        ):
            models.build(model, signature, 0)
        return
    outputs_BK = models.build(model, signature, 0)(make_rows(signature))
    assert outputs_BK.shape == (3, signature.num_outputs)
    assert outputs_BK.dtype == torch.float32


def test_build_makes_weights_a_function_of_the_seed() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        models.build(Mlp(name="mlp"), GREY, seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["body.1.weight"], other["body.1.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_build_follows_the_sizes_of_the_spec() -> None:
    mlp = models.build(Mlp(name="mlp", hidden=[512, 256, 128], dropout=0.5), GREY, 0)
    assert [p.shape[0] for p in mlp.parameters() if p.dim() == 2] == [512, 256, 128, 10]
    assert sum(isinstance(layer, torch.nn.Dropout) for layer in mlp.modules()) == 3
    cnn = models.build(Cnn(name="cnn", depth=3, width=4, hidden=7, batch_norm=True), GREY, 0)
    assert [p.shape[:2] for p in cnn.parameters() if p.dim() == 4] == [(4, 1), (8, 4), (16, 8)]
    with pytest.raises(SpecError, match="4 blocks halve a 8x8 image to nothing; give at most 3"):
        models.build(Cnn(name="cnn", depth=4), TINY, 0)


@pytest.mark.parametrize("width", [10**14, 10**18, 10**20])
def test_network_that_fits_no_memory_is_a_problem_of_the_spec(width: int) -> None:
    with pytest.raises(SpecError, match="do not fit the memory of this machine; give smaller"):
        models.build_to_check(Mlp(name="mlp", depth=1, width=width), GREY, 0)
    # It is not said of other errors, and not by a worker, which another one may replace.
    with pytest.raises((RuntimeError, TypeError)):
        models.build(Mlp(name="mlp", depth=1, width=width), GREY, 0)
