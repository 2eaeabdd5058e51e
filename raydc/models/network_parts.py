"""Input layer and container of every network. Used in workers and replicas.

Shape suffixes: B rows, C channels, H height, W width, K outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from raydc.errors import Problem, SpecError
from raydc.features import Signature

# A network is tried on these numbers of rows: one row, the most frequent request, is where a
# `squeeze` goes wrong, and what holds for two need not hold for three.
SHAPE_ROWS = (1, 2, 3)


class Input(nn.Module):
    """The first layer: stored rows to normalised float32.

    Args:
        signature: Signature of the rows; images are normalised by its mean and scale per channel.
        num_channels: Repeat a grey image over this many channels; None keeps the stored channels.
        side: Enlarge images to this height and width; None keeps the stored size.
        channels_last: Memory format of the result, which convolutions on a CPU or a tensor core
            prefer.
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
        self.normalises = bool(signature.mean)
        self.num_channels = num_channels
        self.side = side
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

    def forward(self, x: Tensor) -> Tensor:
        """Normalises stored rows.

        Args:
            x: uint8 [B, C, H, W] or float32 [B, F].

        Returns:
            float32 of the same shape, or of the wanted channels and side.
        """
        if not self.normalises:
            return x.float()
        # `copy=True` makes the in-place steps safe for an input that is float32 already.
        x_BCHW = (
            x.to(torch.float32, memory_format=self.memory_format, copy=True)
            .sub_(self.mean)
            .div_(self.scale)
        )
        if self.num_channels is not None:
            x_BCHW = x_BCHW.expand(-1, self.num_channels, -1, -1)
        if self.side is not None:
            x_BCHW = functional.interpolate(
                x_BCHW, size=(self.side, self.side), mode="bilinear", antialias=True
            )
        return x_BCHW


class Network(nn.Module):
    """An input layer, followed by the layers of a model.

    Args:
        first: Layer that turns stored rows into normalised float32.
        body: Layers that take its output and return [B, K].
    """

    def __init__(self, first: Input, body: nn.Module) -> None:
        super().__init__()
        # The names of these attributes are part of every name in `model.safetensors`.
        self.input = first
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Stored rows [B, *signature.shape] to raw outputs, float32 [B, K]."""
        outputs_BK: Tensor = self.body(self.input(x))
        return outputs_BK.float()


def model_problem(path: str, message: str) -> SpecError:
    """Makes an error about section `model`; its file and line are no longer known here.

    Args:
        path: Dotted path of the field of the spec, such as `model.builder`.
        message: What is wrong, with the offending value.
    """
    return SpecError([Problem("", path, message)])


def require_images(signature: Signature, name: str) -> None:
    """Raises SpecError if the rows are not images, which the model `name` needs."""
    if signature.kind != "image":
        raise model_problem(
            "model.name",
            f"{name} takes images, but the rows are vectors of {signature.shape[0]} numbers",
        )
