"""A network cut in two: a frozen body, which gives a row the same outputs in every epoch, and the
layers behind it. Runs in each worker; the plan of a run only looks for the cut.

The body computes blocks of one fixed number of rows in evaluation mode, so that a row's outputs are
the same bits wherever the row comes up.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from raydc.models.network_parts import Network
from raydc.models.pretrained_part import PretrainedPart
from raydc.models.row_tensors import (
    NetworkInputs,
    RaggedTensor,
    RecordTensors,
    RowTensors,
    network_inputs,
)

# Sizes of blocks to try by device; the last is one row, which cannot depend on others. A GPU needs
# more rows to be busy.
_BLOCKS: dict[str, tuple[int, ...]] = {"cpu": (8, 1), "cuda": (64, 1)}
_RANDOM = (nn.modules.dropout._DropoutNd,)
# Classes of torchvision and of users whose layers draw random numbers.
_RANDOM_NAMES = ("StochasticDepth", "DropPath", "DropBlock2d", "DropBlock3d")


# Rows to compare, and relative and absolute differences that rounding cannot explain.
_NUM_COMPARED = 8
_GROSS = (1e-2, 1e-3)


class _ReachedError(Exception):
    """The pass has come to the first layer behind the body."""


def find_tail(network: Network) -> list[nn.Module]:
    """Layers behind the frozen body, in their order.

    They begin with the first layer that trains or draws random numbers. A sequence is cut between
    its layers; any other module is cut inside only if a single part of it trains.

    Args:
        network: Network whose frozen layers are frozen already.
    """
    return _tail_of(network.body, set(network.kept_layers))


def _tail_of(module: nn.Module, kept: set[nn.Module]) -> list[nn.Module]:
    children = list(module.children())
    if _is_live(module, kept) or not children:
        return [module]
    live = [child for child in children if any(_is_live(m, kept) for m in child.modules())]
    # Its layers take a mask beside the vectors, so there is no place to cut inside.
    if isinstance(module, PretrainedPart) and live:
        return [module]
    if type(module) is nn.Sequential and live:
        first = children.index(live[0])
        return [*_tail_of(live[0], kept), *children[first + 1 :]]
    return _tail_of(live[0], kept) if len(live) == 1 else [module]


def _is_live(module: nn.Module, kept: set[nn.Module]) -> bool:
    """Whether a module itself trains, draws random numbers or changes its buffers."""
    if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
        return True
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.track_running_stats and module not in kept
    return _is_random(module) and module not in kept


def _is_random(module: nn.Module) -> bool:
    is_random = isinstance(module, _RANDOM) or type(module).__name__ in _RANDOM_NAMES
    return is_random and getattr(module, "p", 1.0) > 0


def why_no_cut(network: Network) -> str | None:
    """Why there is no frozen body to cut off; None if there may be one."""
    tail = find_tail(network)
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    behind = sum(p.numel() for m in tail for p in m.parameters() if not p.requires_grad)
    # The body must be most of the frozen work: its outputs may be larger than the rows.
    if frozen > 0 and 2 * behind <= frozen:
        return None
    modules = list(network.named_modules())
    kept = set(network.kept_layers)
    place, name = next(
        (place, name) for place, (name, one) in enumerate(modules) if _is_live(one, kept)
    )
    before = sum(p.numel() for _, one in modules[:place] for p in one.parameters(recurse=False))
    if 2 * before >= frozen > 0:
        return f"the network does not go on from {name} as a sequence of layers"
    does = "draws random numbers" if _is_random(modules[place][1]) else "trains"
    return f"{name} {does}, and most frozen layers do not come before it"


@dataclass(frozen=True)
class FrozenBody:
    """The two parts of a network.

    Attributes:
        network: The whole network, body and tail.
        tail: Layers behind the body, in their order.
        block_rows: Number of rows in each pass through the body.
        mixed: Whether to compute in bf16 where autocast does.
    """

    network: Network
    tail: list[nn.Module]
    block_rows: int
    mixed: bool

    @torch.no_grad()
    def outputs(self, x: RowTensors) -> Tensor:
        """Outputs of the body, float32 [B, ...] on the CPU.

        Args:
            x: Any number of rows on the device of the network.
        """
        rows = _one_field(x)
        return torch.cat(
            [
                self._block(rows[start : min(start + self.block_rows, len(rows))])
                for start in range(0, len(rows), self.block_rows)
            ]
        )

    def _block(self, rows: RowTensors) -> Tensor:
        num_rows = len(rows)
        # A block of texts is one row, and so never too short.
        if num_rows < self.block_rows and isinstance(rows, Tensor):
            # Copies of the last row, because a network may raise for zeros.
            copies = rows[-1:].expand(self.block_rows - num_rows, *rows.shape[1:])
            rows = torch.cat([rows, copies])
        found = self.reach(rows)
        return found[:num_rows].float().cpu().contiguous()

    def reach(self, rows: RowTensors) -> Tensor:
        """Inputs of the first layer of the tail for some rows, at which the pass ends."""
        inputs = network_inputs(rows)
        device = next(self.network.parameters()).device
        caught: list[Tensor] = []

        def catch(_: nn.Module, given: tuple[Any, ...]) -> None:
            caught.extend(given)
            raise _ReachedError

        hook = self.tail[0].register_forward_pre_hook(catch)
        try:
            with contextlib.suppress(_ReachedError), _precision(device, self.mixed):
                self.network(inputs)
        finally:
            hook.remove()
        if len(caught) != 1 or not isinstance(caught[0], Tensor):
            # Also raised if the pass never reached that layer.
            raise _NoBodyError("the layers behind it do not take exactly one tensor")
        if len(caught[0]) != len(rows):
            raise _NoBodyError("its outputs and its inputs differ in their number of rows")
        return caught[0]

    def finish(self, outputs: NetworkInputs) -> Tensor:
        """Raw outputs of the network, float32 [B, K].

        Args:
            outputs: Result of `outputs` for the rows, moved to the device of the network.
        """
        found: Any = outputs
        for layer in self.tail:
            found = layer(found)
        result: Tensor = found.float()
        return result


def _one_field(x: RowTensors) -> RowTensors:
    """Rows as a network takes them, in aligned memory; lists as they are, to be padded later."""
    if _are_lists(x):
        return x
    inputs = network_inputs(x)
    if not isinstance(inputs, Tensor):
        raise _NoBodyError("rows of several fields are not one tensor")
    return inputs


def _are_lists(x: RowTensors) -> bool:
    """Whether each row is one list, such as the tokens of a text."""
    fields = list(x.fields.values()) if isinstance(x, RecordTensors) else []
    return len(fields) == 1 and isinstance(fields[0], RaggedTensor)


class _NoBodyError(Exception):
    """The network cannot be cut; the message says why."""


@contextlib.contextmanager
def _precision(device: torch.device, mixed: bool) -> Iterator[None]:
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
        yield


def cut(network: Network, x: RowTensors, mixed: bool) -> FrozenBody | str:
    """Cuts a network behind its frozen body, and proves that the two parts give the same outputs.

    Args:
        network: A network of which some layers are frozen, on its device. Those before the
            cut stay in evaluation mode from then on.
        x: A few rows on the device to try it with.
        mixed: Whether to compute in bf16 where autocast does.

    Returns:
        The two parts; or the reason why the body cannot be computed once for all epochs.
    """
    reason = why_no_cut(network)
    if reason is not None:
        return reason
    was_training = network.training
    blocks = _BLOCKS["cuda" if next(network.parameters()).is_cuda else "cpu"]
    # A list is padded by its own length if it is alone. With others, libraries might choose
    # kernels by the length, and each length would have to be tried.
    blocks = (1,) if _are_lists(x) else blocks
    try:
        with torch.random.fork_rng():
            for block_rows in blocks:
                body = FrozenBody(network, find_tail(network), block_rows, mixed)
                if block_rows == 1 or _is_independent(body, x):
                    return _refusal(body, x) or _keep_mode(body)
    except _NoBodyError as error:
        return str(error)
    finally:
        network.train(was_training)
    return "it cannot be tried"


def _keep_mode(body: FrozenBody) -> FrozenBody:
    """Keeps all layers before the tail in evaluation mode, so that any thread may run them."""
    behind = {module for layer in body.tail for module in layer.modules()}
    front = [module for module in body.network.modules() if module not in behind]
    body.network.keep_in_evaluation_mode([m for m in front if m is not body.network])
    return body


@torch.no_grad()
def _is_independent(body: FrozenBody, x: RowTensors) -> bool:
    """Whether a row gets the same bits in other places of a block and beside other rows."""
    body.network.eval()
    inputs = _one_field(x)[slice(0, min(body.block_rows, len(x)))]
    assert isinstance(inputs, Tensor), "lists are computed one by one"
    together = body.outputs(inputs)
    backwards = body.outputs(inputs.flip(0)).flip(0)
    ends = [body.outputs(inputs[:1]), body.outputs(inputs[-1:])]
    return torch.equal(together, backwards) and torch.equal(
        torch.cat(ends), torch.stack([together[0], together[-1]])
    )


@torch.no_grad()
def _refusal(body: FrozenBody, x: RowTensors) -> str | None:
    """Why the parts differ from the network; None if they compute the same."""
    network, inputs = body.network, _one_field(x)[slice(0, min(_NUM_COMPARED, len(x)))]
    network.eval()
    outputs = body.outputs(inputs)
    # Rounding differs with the number of rows, so only large differences count.
    together = body.reach(inputs).float().cpu()
    if not torch.allclose(outputs, together, *_GROSS):
        return "its outputs depend on the rows beside a row"
    network.train()
    # Finds random numbers in the code of any layer, whatever its class.
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        drawn.append(body.outputs(inputs))
    if not torch.equal(*drawn):
        return "it draws random numbers"
    if not torch.allclose(outputs, drawn[0], *_GROSS):
        return "it computes different outputs while the network trains"
    network.eval()
    # In full precision, because outputs of the body are rounded where the network is cut.
    expected = network(network_inputs(inputs))
    outputs = replace(body, mixed=False).outputs(inputs).to(expected.device)
    found = body.finish(outputs)
    if found.shape != expected.shape or not torch.allclose(found, expected, *_GROSS):
        return "the network goes on behind its last layer"
    return None
