"""Builds the network that section `model` names. Used in workers and replicas.

Every network takes rows as they are stored (bytes of an image, scaled numbers of a vector) and
returns raw float32 outputs. The normalisation of the input is its first layer, so training and
serving cannot differ in it.
"""

from __future__ import annotations

import torch
from torch import nn

from raydc.features import Signature
from raydc.models import torchvision_models, user_models
from raydc.models.network_parts import Input, Network, model_problem, require_images
from raydc.spec.model import Cnn, Linear, Mlp, Model, Torchvision


def build(model: Model, signature: Signature, seed: int) -> Network:
    """Makes a network whose first weights are a function of the seed.

    Args:
        model: Section `model` of a spec, which names the network and its options.
        signature: Shapes of a row and of the outputs.
        seed: Seed from which the first weights are drawn.

    Returns:
        A network on the CPU, in training mode.

    Raises:
        SpecError: The section does not fit the rows, names an unknown model, or its builder fails.
    """
    # Weights are drawn on the CPU, so that every device starts with the same ones. The fork leaves
    # the generator of the process as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, Linear):
            return Network(Input(signature), _make_linear(signature))
        if isinstance(model, Mlp):
            return Network(Input(signature), _make_mlp(model, signature))
        if isinstance(model, Cnn):
            first = Input(signature, channels_last=True)
            return _to_channels_last(Network(first, _make_cnn(model, signature)))
        if isinstance(model, Torchvision):
            return _to_channels_last(torchvision_models.build(model, signature))
        return user_models.build(model, signature)


def _to_channels_last(network: Network) -> Network:
    # The weights must have the memory format of the input, or every convolution converts one.
    return network.to(memory_format=torch.channels_last)


def _make_linear(signature: Signature) -> nn.Sequential:
    num_inputs = torch.Size(signature.shape).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, signature.num_outputs))


def _make_mlp(model: Mlp, signature: Signature) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    num_inputs = torch.Size(signature.shape).numel()
    for width in model.widths:
        layers += [nn.Linear(num_inputs, width), nn.ReLU(inplace=True)]
        # A layer of no dropout would shift the names of the weights behind it.
        layers += [nn.Dropout(model.dropout)] if model.dropout else []
        num_inputs = width
    return nn.Sequential(*layers, nn.Linear(num_inputs, signature.num_outputs))


def _make_cnn(model: Cnn, signature: Signature) -> nn.Sequential:
    require_images(signature, "cnn")
    channels = model.block_channels
    num_channels, height, width = signature.shape
    if min(height, width) >> len(channels) == 0:
        message = f"{len(channels)} blocks halve a {height}x{width} image to nothing"
        most = min(height, width).bit_length() - 1
        raise model_problem("model", f"{message}; give at most {most}")
    layers: list[nn.Module] = []
    for block_channels in channels:
        # The shift of a batch norm replaces the bias of the convolution in front of it.
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
