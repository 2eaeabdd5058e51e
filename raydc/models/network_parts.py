"""Input layer and container of every network. Used in workers and replicas.

Shape suffixes: B rows, C channels, H height, W width, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from raydc.errors import Problem, SpecError
from raydc.features import Signature
from raydc.features.record import LENGTH
from raydc.models.row_tensors import NetworkInputs

# A network is tried on these numbers of rows: one row, the most frequent request, is where a
# `squeeze` goes wrong, and what holds for two need not hold for three.
SHAPE_ROWS = (1, 2, 3)


# Key in the state of the image size that came with pretrained weights; absent without them.
_SIDE = "own_side"


class Input(nn.Module):
    """The first layer: stored rows to normalised float32.

    Args:
        signature: Signature of the rows; images are normalised by its mean and scale per channel.
        num_channels: Repeat a grey image over this many channels; None keeps the stored channels.
        side: Enlarge images to this height and width; None keeps the stored size.
        channels_last: Memory format of the result, which convolutions on a CPU or a tensor core
            prefer.

    Attributes:
        side: Height and width to which images are resized; None keeps the stored size.
        is_adopted: Whether the normalisation came with weights or from the spec.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        signature: Signature,
        num_channels: int | None = None,
        side: int | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(Input.take_over)  # type: ignore[no-untyped-call]
        self.normalises = bool(signature.mean)
        self.num_channels = num_channels
        self.side = self._first_side = side
        self.is_adopted = False
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if self.normalises:
            # [C, 1, 1], so that they broadcast over height and width. As buffers they are saved
            # with the weights and move to the device of the network.
            broadcast = (-1,) + (1,) * (len(signature.shape) - 1)
            self.register_buffer(
                "mean", torch.tensor(signature.mean, dtype=torch.float32).reshape(broadcast)
            )
            self.register_buffer(
                "scale", torch.tensor(signature.scale, dtype=torch.float32).reshape(broadcast)
            )

    def adopt(self, mean: Sequence[float] | None, scale: Sequence[float], side: int | None) -> None:
        """Takes over what weights were trained with; it becomes part of the state.

        Args:
            mean: Mean of each channel, in units of pixels (0 to 255); None keeps mean and scale.
            scale: Divisor of each channel, in the same units.
            side: Height and width of images; None keeps them.
        """
        if mean is not None and self.normalises:
            self.is_adopted = True
            for name, values in (("mean", mean), ("scale", scale)):
                self.register_buffer(
                    name, torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
                )
        if side is not None:
            self.side = side
            self.register_buffer(_SIDE, torch.tensor(side))

    @staticmethod
    def take_over(first: Input, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
        """Makes room for a state that holds what `adopt` has taken over, before it is loaded.

        Args:
            first: The layer that will load the state.
            state_dict: State of the whole network.
            prefix: What the names of this layer begin with.
        """
        side = state_dict.get(f"{prefix}{_SIDE}")
        if side is not None:
            first.adopt(None, (), int(side))
        elif hasattr(first, _SIDE):
            # The state is older than sizes of weights: the network keeps the size of its training.
            delattr(first, _SIDE)
            first.side = first._first_side
        for name in ("mean", "scale"):
            kept, given = getattr(first, name, None), state_dict.get(f"{prefix}{name}")
            if kept is not None and given is not None and kept.shape != given.shape:
                first.register_buffer(name, torch.empty_like(given, device=kept.device))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises stored rows.

        Args:
            x: uint8 [B, C, H, W] or float32 [B, F].

        Returns:
            float32 of the same shape, or of the wanted channels and side.
        """
        if not self.normalises:
            return x.float()
        channels = self.num_channels or -1
        # Constants of pretrained weights differ by channel, so grey is repeated before it is
        # normalised.
        early = len(self.mean) > x.shape[1]
        x = x.expand(-1, channels, -1, -1) if early else x
        # `copy=True` makes the in-place steps safe for an input that is float32 already.
        x_BCHW = (
            x.to(torch.float32, memory_format=self.memory_format, copy=True)
            .sub_(self.mean)
            .div_(self.scale)
        )
        if self.num_channels is not None and not early:
            x_BCHW = x_BCHW.expand(-1, channels, -1, -1)
        if self.side is not None and x_BCHW.shape[2:] != (self.side, self.side):
            x_BCHW = functional.interpolate(
                x_BCHW, size=(self.side, self.side), mode="bilinear", antialias=True
            )
        return x_BCHW


class RecordInput(nn.Module):
    """The first layer of rows of named fields: pixels are normalised, codes become int64.

    Args:
        signature: Signature of the rows, a record.
        keeps_pixels: Whether to leave images to networks with an input layer of their own.
    """

    def __init__(self, signature: Signature, keeps_pixels: bool = False) -> None:
        super().__init__()
        self.fields = dict(signature.fields)
        self.keeps_pixels = keeps_pixels
        # By position: a name of a column may hold what a name of a module must not, such as a dot.
        self.images = nn.ModuleList(
            Input(Signature("image", field.shape, "uint8", field.mean, field.scale, "regression"))
            for field in self.fields.values()
            if field.mean and not keeps_pixels
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Normalises the fields of a batch.

        Args:
            inputs: Tensors by field, and the lengths of lists, see `row_tensors.NetworkInputs`.
        """
        images = iter(self.images)
        outputs: dict[str, Tensor] = {}
        for name, field in self.fields.items():
            if field.mean:
                outputs[name] = inputs[name] if self.keeps_pixels else next(images)(inputs[name])
            elif field.num_codes:
                outputs[name] = inputs[name].long()
            else:
                outputs[name] = inputs[name].float()
            if field.form == "list":
                outputs[name + LENGTH] = inputs[name + LENGTH]
        return outputs


class Network(nn.Module):
    """An input layer, followed by the layers of a model.

    Args:
        first: Layer that turns stored rows into normalised float32.
        body: Layers that take its output and return [B, K].

    Attributes:
        notes: What to tell the user about its weights.
        kept_layers: Layers that compute as in evaluation, in training too.
    """

    def __init__(self, first: Input | RecordInput, body: nn.Module) -> None:
        super().__init__()
        # The names of these attributes are part of every name in `model.safetensors`.
        self.input = first
        self.body = body
        self.notes: list[str] = []
        self.kept_layers: list[nn.Module] = []

    def keep_in_evaluation_mode(self, layers: Sequence[nn.Module]) -> None:
        """Makes these layers of the network compute as in evaluation, in training too."""
        self.kept_layers = list(layers)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all layers but those that stay in evaluation mode."""
        super().train(mode)
        for layer in self.kept_layers:
            # Not `eval()`: layers inside this one may train.
            layer.training = False
        return self

    def forward(self, x: NetworkInputs) -> Tensor:
        """Stored rows to raw outputs, float32 [B, K]; see `row_tensors.NetworkInputs`."""
        outputs_BK: Tensor = self.body(self.input(x))
        return outputs_BK.float()


def model_problem(path: str, message: str) -> SpecError:
    """Makes an error about section `model`; its file and line are no longer known here.

    Args:
        path: Dotted path of the field of the spec, such as `model.builder`.
        message: What is wrong, with the offending value.
    """
    return SpecError([Problem("", path, message)])


def _describe(signature: Signature) -> str:
    if signature.kind == "record":
        return f"records of {', '.join(signature.fields)}"
    return f"vectors of {signature.shape[0]} numbers"


def require_images(signature: Signature, name: str) -> None:
    """Raises SpecError if the rows are not images, which the model `name` needs."""
    if signature.kind != "image":
        raise model_problem(
            "model.name",
            f"{name} takes images, but the rows are {_describe(signature)}",
        )
