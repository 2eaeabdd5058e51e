"""What can be trained: `linear`, `mlp`, `cnn`, any classification network of torchvision, a user's own.

Every network takes rows as they are stored (bytes of an image, scaled numbers of a vector) and gives raw float32
outputs: the input normalisation is its first layer, so training and serving cannot differ in it.

Shape suffixes: B rows, C channels, H height, W width, F features, K outputs.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raydc.errors import Problem, SpecError, did_you_mean
from raydc.features import Signature
from raydc.spec.model import Builder, Cnn, Linear, Mlp, Model, Torchvision

_OWN = ("linear", "mlp", "cnn")
# Sides that torchvision's networks were made for; images that are too small for one are enlarged to the next.
_SIDES = (32, 64, 96, 128, 224, 299)


class Input(nn.Module):
    """The first layer: stored rows to normalised float32.

    Args:
        signature: Of the rows; images are normalised by its mean and scale per channel.
        num_channels: Repeat a grey image so often; default: as stored.
        side: Enlarge images to this height and width; default: as stored.
        channels_last: Memory format of the result, which convolutions on a CPU or a tensor core prefer.
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
            broadcast = (-1,) + (1,) * (len(signature.shape) - 1)
            self.register_buffer(
                "mean", torch.tensor(signature.mean, dtype=torch.float32).reshape(broadcast)
            )
            self.register_buffer(
                "scale", torch.tensor(signature.scale, dtype=torch.float32).reshape(broadcast)
            )

    def forward(self, x: Tensor) -> Tensor:
        """uint8 [B, C, H, W] or float32 [B, F] to float32 of the same shape, or of the wanted channels and side."""
        if not self.normalises:
            return x.float()
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
    """An input layer and what follows it."""

    def __init__(self, first: Input, body: nn.Module) -> None:
        super().__init__()
        self.input = first
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Stored rows [B, *signature.shape] to raw outputs, float32 [B, K]."""
        outputs_BK: Tensor = self.body(self.input(x))
        return outputs_BK.float()


def build(model: Model, signature: Signature, seed: int) -> Network:
    """Makes a network with its first weights, which are a function of the seed.

    Args:
        model: Section `model` of a spec.
        signature: Shapes of a row and of the outputs.
        seed: Seed of the weights.

    Returns:
        A network on the CPU, in training mode.

    Raises:
        SpecError: The section does not fit the rows, names an unknown model, or its builder fails.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, Linear):
            features = torch.Size(signature.shape).numel()
            return Network(
                Input(signature),
                nn.Sequential(nn.Flatten(), nn.Linear(features, signature.num_outputs)),
            )
        if isinstance(model, Mlp):
            return Network(Input(signature), _mlp(model, signature))
        if isinstance(model, Cnn):
            first = Input(signature, channels_last=True)
            return _channels_last(Network(first, _cnn(model, signature)))
        if isinstance(model, Torchvision):
            return _channels_last(_torchvision(model, signature))
        return _users(model, signature)


def _channels_last(network: Network) -> Network:
    return network.to(memory_format=torch.channels_last)


def _fault(path: str, message: str) -> SpecError:
    return SpecError([Problem("", path, message)])


def _mlp(model: Mlp, signature: Signature) -> nn.Sequential:
    widths = model.widths
    layers: list[nn.Module] = [nn.Flatten()]
    num_inputs = torch.Size(signature.shape).numel()
    for width in widths:
        layers += [nn.Linear(num_inputs, width), nn.ReLU(inplace=True)]
        layers += [nn.Dropout(model.dropout)] if model.dropout else []
        num_inputs = width
    return nn.Sequential(*layers, nn.Linear(num_inputs, signature.num_outputs))


def _cnn(model: Cnn, signature: Signature) -> nn.Sequential:
    _require_images(signature, "cnn")
    channels = model.block_channels
    num_channels, height, width = signature.shape
    if min(height, width) >> len(channels) == 0:
        message = f"{len(channels)} blocks halve a {height}x{width} image to nothing"
        raise _fault("model", f"{message}; give at most {min(height, width).bit_length() - 1}")
    layers: list[nn.Module] = []
    for block_channels in channels:
        layers.append(
            nn.Conv2d(num_channels, block_channels, 3, padding=1, bias=not model.batch_norm)
        )
        layers += [nn.BatchNorm2d(block_channels)] if model.batch_norm else []
        # ReLU and maximum commute; after the pooling it has a quarter of the work.
        layers += [nn.MaxPool2d(2), nn.ReLU(inplace=True)]
        num_channels, height, width = block_channels, height // 2, width // 2
    layers += [
        nn.Flatten(),
        nn.Linear(num_channels * height * width, model.hidden),
        nn.ReLU(inplace=True),
    ]
    layers += [nn.Dropout(model.dropout)] if model.dropout else []
    return nn.Sequential(*layers, nn.Linear(model.hidden, signature.num_outputs))


def _require_images(signature: Signature, name: str) -> None:
    if signature.kind != "image":
        raise _fault(
            "model.name",
            f"{name} takes images, but the rows are vectors of {signature.shape[0]} numbers",
        )


# torchvision -----------------------------------------------------------------------------------------


def _torchvision(model: Torchvision, signature: Signature) -> Network:
    from torchvision import models as zoo

    known = zoo.list_models(module=zoo)
    if model.name not in known:
        there = f"known: {', '.join(_OWN)} and torchvision's"
        advice = did_you_mean(model.name, [*_OWN, *known], num=3) or there
        raise _fault("model.name", f"no model {model.name!r}; {advice}")
    _require_images(signature, model.name)
    arguments = dict(model.arguments)
    if model.name in ("googlenet", "inception_v3"):
        arguments.setdefault("aux_logits", model.weights is not None)
    try:
        body = _from_zoo(model, arguments, signature.num_outputs)
    except (TypeError, ValueError, KeyError) as error:
        raise _fault(
            "model", f"torchvision's {model.name} refuses its arguments: {error}"
        ) from error
    except OSError as error:
        raise _fault(
            "model.weights", f"{model.weights} of {model.name} cannot be downloaded: {error}"
        ) from error
    num_channels = 3 if signature.shape[0] == 1 else None
    sides: list[int | None] = [None, *(side for side in _SIDES if side > min(signature.shape[1:]))]
    for side in sides:
        network = Network(Input(signature, num_channels, side, channels_last=True), body)
        if _fits(network, signature):
            return network
    height, width = signature.shape[1:]
    raise _fault(
        "model.name",
        f"{model.name} takes neither {height}x{width} images nor enlarged ones; set image_size",
    )


def _from_zoo(model: Torchvision, arguments: dict[str, Any], num_outputs: int) -> nn.Module:
    from torchvision import models as zoo

    if model.weights is None:
        body: nn.Module = zoo.get_model(model.name, num_classes=num_outputs, **arguments)
        return body
    weights = zoo.get_model_weights(model.name)[model.weights]
    pretrained: nn.Module = zoo.get_model(model.name, weights=weights, **arguments)
    if hasattr(pretrained, "aux_logits"):
        pretrained.aux_logits = False  # type: ignore[assignment]
    _replace_head(pretrained, len(weights.meta["categories"]), num_outputs)
    return pretrained


def _replace_head(body: nn.Module, num_before: int, num_outputs: int) -> None:
    """Gives pretrained weights a new last layer, of as many outputs as there are classes."""
    for name, layer in reversed(list(body.named_modules())):
        parent = body.get_submodule(name.rpartition(".")[0])
        attribute = name.rpartition(".")[2]
        if isinstance(layer, nn.Linear) and layer.out_features == num_before:
            setattr(parent, attribute, nn.Linear(layer.in_features, num_outputs))
            return
        if isinstance(layer, nn.Conv2d) and layer.out_channels == num_before:
            setattr(parent, attribute, nn.Conv2d(layer.in_channels, num_outputs, layer.kernel_size))  # type: ignore[arg-type]
            return
    raise ValueError(f"no last layer of {num_before} outputs to replace")


def _fits(network: Network, signature: Signature) -> bool:
    """Whether a network takes a batch, found out without computing anything."""
    shadow = copy.deepcopy(network).to("meta")
    rows = torch.empty((2, *signature.shape), dtype=torch.uint8, device="meta")
    try:
        shadow(rows)
    except (RuntimeError, ValueError, AssertionError, TypeError):
        return False
    return True


# A user's own ----------------------------------------------------------------------------------------


def _users(model: Builder, signature: Signature) -> Network:
    function = _import(model.builder)
    try:
        body = function(signature, **model.arguments)
    except TypeError as error:
        raise _fault("model.arguments", f"{model.builder} does not take them: {error}") from error
    if not isinstance(body, nn.Module):
        raise _fault(
            "model.builder",
            f"{model.builder} returned a {type(body).__name__}, not a torch.nn.Module",
        )
    network = Network(Input(signature), body)
    _check_outputs(network, model.builder, signature)
    return network


def _import(path: str) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    try:
        with _importable_here():
            module = importlib.import_module(module_name)
    except ImportError as error:
        message = f"cannot import {module_name}: {error}; it is looked for in {os.getcwd()} and on PYTHONPATH"
        raise _fault("model.builder", message) from error
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if function is None or not callable(function):
        names = [
            name
            for name, value in vars(module).items()
            if callable(value) and not name.startswith("_")
        ]
        message = f"module {module_name} has no function {function_name}"
        advice = did_you_mean(function_name, names)
        raise _fault("model.builder", "; ".join(filter(None, (message, advice))))
    return function


@contextlib.contextmanager
def _importable_here() -> Iterator[None]:
    """The current directory counts, as with `python -m`; the console script leaves it out."""
    here = os.getcwd()
    if here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _check_outputs(network: Network, name: str, signature: Signature) -> None:
    dtype = torch.uint8 if signature.dtype == "uint8" else torch.float32
    rows = torch.zeros((2, *signature.shape), dtype=dtype)
    expected = (2, signature.num_outputs)
    network.eval()
    try:
        with torch.no_grad():
            found = tuple(network(rows).shape)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        taken = tuple(rows.shape)
        raise _fault(
            "model.builder", f"{name}: its network fails on float32 inputs of {taken}: {error}"
        ) from error
    finally:
        network.train()
    if found != expected:
        raise _fault(
            "model.builder", f"{name}: its network gives {found} for 2 rows, expected {expected}"
        )
