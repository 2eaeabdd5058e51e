"""Proves that the state of a user's network makes the round trip through a checkpoint.

Runs in the driver before a run begins, and in each trial of a sweep before its first step. One
training step is computed on a network that is thrown away. Its state becomes the bytes of a
checkpoint and is loaded into a second network, fresh from the builder, which must then compute the
same outputs. What fails here would otherwise fail after the last epoch, or at the first restart.

Shape suffixes: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from raydc import models
from raydc.checkpoint.snapshot import TensorImage
from raydc.data.prepared import Prepared
from raydc.data.shards import open_rows
from raydc.errors import last_line
from raydc.loop.group import Alone
from raydc.loop.length import Length
from raydc.loop.padding_proof import prove_padding
from raydc.loop.step import Step
from raydc.models.build_check import refuse_shape, user_code, without_trace
from raydc.models.losses import make_loss
from raydc.models.network_parts import Network, model_problem
from raydc.models.row_tensors import network_inputs, to_tensors
from raydc.spec import ResolvedSpec
from raydc.spec.model import Builder

# Two shards show whether a buffer survives the change from one to the next; batch normalisation
# needs two rows in each.
_MAX_SHARDS = 2
_ROWS_PER_SHARD = 2
# Fraction of the largest output.
_INFLUENCE = 1e-3
_BUFFERS_HINT = "what a forward pass changes must be in a buffer (register_buffer)"
_TORCH_ONLY = "and random numbers must come from torch"


def prove_state(spec: ResolvedSpec, data: Prepared) -> None:
    """Proves the round trip of a network that a builder of the user's own makes.

    The networks of raydc and of torchvision are known to make it, and are not tried.

    Args:
        spec: The resolved spec; `model`, `train` and `seed` are used.
        data: Prepared data set, whose first training rows are used.

    Raises:
        SpecError: A part of the state is lost or changes its shape, the network cannot be trained,
            or its code fails; the message names the part.
    """
    if isinstance(spec.model, Builder):
        with without_trace():
            _Proof(spec, spec.model.builder, data).run()


class _Proof:
    """One proof, with the network that is trained and the fresh one that takes over its state."""

    def __init__(self, spec: ResolvedSpec, name: str, data: Prepared) -> None:
        self.spec, self.name = spec, name
        self.signature = data.features.signature
        self.num_shards = min(_MAX_SHARDS, spec.train.logical_shards)
        rows = open_rows(data.folder, "train")
        ids_B = np.arange(min(len(rows), self.num_shards * _ROWS_PER_SHARD), dtype=np.int64)
        x, y_B = rows.gather(ids_B)
        self.x, self.y_B = to_tensors(x), torch.from_numpy(y_B)
        # Weights of classes come from these few rows instead of all: no state depends on them.
        self.loss_sum = make_loss(
            spec.train.loss, self.signature, self.y_B.numpy, torch.device("cpu")
        )
        self.trained, self.fresh = (
            models.build(spec.model, self.signature, spec.seed).train() for _ in range(2)
        )

    def run(self) -> None:
        """Runs all parts of the proof. Raises SpecError."""
        before = self._state_of(self.trained)
        self._refuse_untrainable()
        fresh = self._state_of(self.fresh)
        self._compare(before, fresh, "differs when the builder is called again")
        self._pass_forward()
        self._refuse_other_layout(before)
        self._train()
        self._refuse_other_layout(before)
        self._refuse_hidden_changes(before)
        loaded = self._load()
        self._compare(
            self._state_of(self.trained), loaded, "is not what was saved once it is loaded"
        )
        self._compare_outputs()
        self._refuse_influence()
        prove_padding(self.fresh, self.signature, self.name)

    def _problem(self, message: str) -> Exception:
        return model_problem("model.builder", f"{self.name}: {message}")

    def _state_of(self, network: Network) -> dict[str, Tensor]:
        """A copy of a network's state, all of which must be tensors that a checkpoint can hold."""
        with user_code(self.name, "its state_dict raises"):
            state = network.state_dict()
        for key, value in state.items():
            if not isinstance(value, Tensor):
                raise self._problem(
                    f"{key} is a {type(value).__name__}, and a checkpoint holds tensors only; "
                    f"{_BUFFERS_HINT}"
                )
            if value.is_complex() or value.is_quantized or value.layout != torch.strided:
                kind = value.dtype if value.layout == torch.strided else value.layout
                raise self._problem(
                    f"{key} is of {kind}, which a checkpoint cannot hold; use dense tensors of "
                    "real numbers (for a complex one: two parts, with torch.view_as_real)"
                )
        return {key: value.detach().clone() for key, value in state.items()}

    def _refuse_untrainable(self) -> None:
        if not any(parameter.requires_grad for parameter in self.trained.parameters()):
            raise self._problem(
                "the network has no parameter to train: it has none, or requires_grad is False "
                "for all"
            )

    def _compare(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor], what: str) -> None:
        """Refuses states that differ in a key, type, shape or bit."""
        for key in dict.fromkeys((*one, *other)):
            if key not in one or key not in other or not _same(one[key], other[key]):
                raise self._problem(
                    f"{key} {what}; weights must follow from the seed and the saved state alone, "
                    f"{_TORCH_ONLY}"
                )

    def _pass_forward(self) -> None:
        """Runs the rows of one shard in training mode, and looks at what comes out."""
        x = self.x[:_ROWS_PER_SHARD]
        with user_code(self.name, f"its network fails in training mode on {len(x)} row(s)"):
            torch.manual_seed(self.spec.seed)
            # As in a step, where one row has no variance to normalise by.
            outputs_BK = self.trained.train(len(x) > 1)(network_inputs(x))
        self.trained.train()
        refuse_shape(tuple(outputs_BK.shape), (len(x), self.signature.num_outputs), self.name)
        if not outputs_BK.requires_grad:
            raise self._problem(
                "the outputs of the network do not depend on its parameters: no gradient reaches "
                "them (detach, no_grad or argmax on the way)"
            )

    def _refuse_other_layout(self, before: Mapping[str, Tensor]) -> None:
        """Refuses state that a pass adds, removes or gives a different shape or type."""
        now = self._state_of(self.trained)
        for key in dict.fromkeys((*before, *now)):
            if key not in before:
                change = "appears in the first pass"
            elif key not in now:
                change = "disappears in the first pass"
            elif before[key].shape != now[key].shape:
                change = f"changes its shape from {_shape(before[key])} to {_shape(now[key])}"
            elif before[key].dtype != now[key].dtype:
                change = f"changes its type from {before[key].dtype} to {now[key].dtype}"
            else:
                continue
            raise self._problem(
                f"{key} {change}: its checkpoints could not be loaded; give it its final shape and "
                "type in the builder"
            )
        for key, buffer in self.trained.named_buffers():
            if buffer.requires_grad:
                raise self._problem(
                    f"{key} keeps the graph of a pass, so every step would need more memory; "
                    "detach() what is stored in a buffer"
                )

    def _train(self) -> None:
        """Computes one step of the spec's optimiser, as a worker does."""
        train = self.spec.train.model_copy(update={"logical_shards": self.num_shards})
        shards = [
            (shard, slice(start, min(start + _ROWS_PER_SHARD, len(self.x))))
            for shard, start in enumerate(range(0, len(self.x), _ROWS_PER_SHARD))
        ]
        length = Length(total_steps=1, steps_per_epoch=1)
        with user_code(self.name, f"a training step on {len(self.x)} row(s) fails"):
            step = Step(self.trained, self.loss_sum, train, self.spec.seed, length, Alone())
            step(0, len(self.x), self.x, self.y_B, shards)

    def _refuse_hidden_changes(self, before: Mapping[str, Tensor]) -> None:
        """Refuses state that a pass changes and that several shards would not share."""
        known = {name for name, _ in self.trained.named_parameters(remove_duplicate=False)}
        known |= {name for name, _ in self.trained.named_buffers(remove_duplicate=False)}
        for key, value in self._state_of(self.trained).items():
            if self.num_shards > 1 and key not in known and not _same(before[key], value):
                raise self._problem(
                    f"{key} changes in a pass and is not a buffer, so it would depend on the "
                    f"number of workers; {_BUFFERS_HINT}"
                )

    def _load(self) -> dict[str, Tensor]:
        """Loads the state of the trained network into the fresh one, as a resumed run does."""
        state = self.trained.state_dict()
        image = TensorImage(state, pinned=False)
        image.copy(state)
        try:
            self.fresh.load_state_dict(safetensors.torch.load(bytes(image.content)))
        # Users may have hooks that run while a state is loaded.
        except Exception as error:
            raise self._problem(
                f"its state cannot be loaded into a new network: {last_line(error)}"
            ) from error
        return self._state_of(self.fresh)

    def _compare_outputs(self) -> None:
        """Refuses a network that needs more than its state to compute the same again."""
        # Without `exact`, noise from other generators is allowed in training.
        for mode in (False, True) if self.spec.train.exact and len(self.x) > 1 else (False,):
            first, second = (self._outputs(network, mode) for network in (self.trained, self.fresh))
            if not _same(first, second):
                raise self._problem(
                    "the network computes different outputs once its state was saved and loaded "
                    f"into a new one, in {'training' if mode else 'evaluation'} mode: "
                    f"{_BUFFERS_HINT}, {_TORCH_ONLY}"
                )

    def _refuse_influence(self) -> None:
        """Refuses a network whose answer to a row depends on the other rows of its batch."""
        together = self._outputs(self.trained, mode=False)
        with user_code(self.name, "its network fails on 1 row"), torch.no_grad():
            rows = [self.x[row : row + 1] for row in range(len(self.x))]
            alone = torch.cat([self.trained(network_inputs(row)) for row in rows])
        # The last bits differ between batch sizes, so only a gross difference counts.
        most = float((alone - together).abs().max())
        # NaN is left to training, which says after which step it came up.
        if most > _INFLUENCE * max(1.0, float(together.abs().max())):
            raise self._problem(
                f"the outputs of a row differ by {most:.3g} between a batch of one and of "
                f"{len(self.x)} rows: in evaluation mode a row must not depend on the others"
            )

    def _outputs(self, network: Network, mode: bool) -> Tensor:
        what = f"its network fails on {len(self.x)} row(s)"
        with user_code(self.name, what), torch.set_grad_enabled(mode):
            torch.manual_seed(self.spec.seed)
            return network.train(mode)(network_inputs(self.x))  # type: ignore[no-any-return]


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal to the last bit; NaN equals NaN, as bytes do."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    first, second = (t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(first, second)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
