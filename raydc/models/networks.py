"""Builds the network that section `model` names. Used in workers and replicas.

Every network takes rows as they are stored (bytes of an image, scaled numbers of a vector) and
returns raw float32 outputs. The normalisation of the input is its first layer, so training and
serving cannot differ in it.
"""

from __future__ import annotations

import torch
from torch import nn

from raydc.errors import first_line
from raydc.features import Signature
from raydc.models import (
    adapters,
    decoders,
    encoder_weights,
    forecasters,
    frozen_layers,
    fusion_networks,
    pretrained_decoders,
    sequence_networks,
    starting_weights,
    text_encoders,
    torchvision_models,
    tower_networks,
    user_models,
)
from raydc.models.device import is_out_of_memory
from raydc.models.layer_options import initialise, make_activation, pool_and_activate
from raydc.models.network_parts import (
    Input,
    Network,
    RecordInput,
    model_problem,
    require_images,
)
from raydc.models.record_networks import FactorisationMachine, FieldVector
from raydc.spec.forecast_models import LinearForecaster, TemporalConvolution
from raydc.spec.language import LANGUAGE
from raydc.spec.model import (
    Cnn,
    Factorisation,
    Fusion,
    Linear,
    Mlp,
    Model,
    Torchvision,
    TwoTowers,
)
from raydc.spec.sequence_models import Decoder, HuggingFace, Recurrent, Transformer


def build(model: Model, signature: Signature, seed: int, downloads: bool = True) -> Network:
    """Makes a network whose first weights are a function of the seed.

    Args:
        model: Section `model` of a spec, which names the network and its options.
        signature: Shapes of a row and of the outputs.
        seed: Seed from which the first weights are drawn.
        downloads: Whether to download weights that are named. False leaves random ones, in a
            network that is otherwise the same: for a check.

    Returns:
        A network on the CPU, in training mode.

    Raises:
        SpecError: The section does not fit the rows, names an unknown model, its builder fails, its
            weights do not fit, or there is nothing of the name of a frozen layer.
    """
    network = _build(model, signature, seed, downloads)
    if isinstance(model, HuggingFace) and model.reads_folder:
        encoder_weights.load(network, model)
    if isinstance(model, HuggingFace) and model.lora is not None:
        _add_adapters(network, model, seed)
    else:
        starting_weights.load(network, model)
    frozen_layers.freeze(network, model.freeze)
    adapters.require_trained(network)
    return network


def build_to_check(model: Model, signature: Signature, seed: int) -> Network:
    """Makes a network to look at it, without weights that would be downloaded.

    Args:
        model: Section `model` of a spec. See `build`.
        signature: Shapes of a row and of the outputs.
        seed: Seed from which the first weights are drawn.

    Raises:
        SpecError: As from `build`; or the network is too large for the memory of this machine.
    """
    try:
        return build(model, signature, seed, downloads=False)
    except (RuntimeError, TypeError, MemoryError) as error:
        text = first_line(error)
        # Sizes with more digits than torch counts are no shortage of memory to it.
        if is_out_of_memory(error) or "overflow" in text.lower():
            message = "its weights do not fit the memory of this machine; give smaller sizes"
            raise model_problem("model", f"{message} ({text})") from error
        raise


def _add_adapters(network: Network, model: HuggingFace, seed: int) -> None:
    """Adds adapters to an encoder, and loads a file of weights before or behind that."""
    # A file without adapters has the weights under the names of a plain encoder.
    if adapters.are_in_file(model):
        adapters.add(network, model, seed)
        starting_weights.load(network, model)
    else:
        starting_weights.load(network, model)
        adapters.add(network, model, seed)


def _build(model: Model, signature: Signature, seed: int, downloads: bool) -> Network:
    # Weights are drawn on the CPU, so that every device starts with the same ones. The fork leaves
    # the generator of the process as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, Linear):
            return _make_linear(signature)
        if isinstance(model, Mlp):
            return _make_mlp(model, signature)
        if isinstance(model, Cnn):
            first = Input(signature, channels_last=True)
            return _to_channels_last(Network(first, _make_cnn(model, signature)))
        if isinstance(model, Recurrent | Transformer):
            return sequence_networks.build(model, signature)
        if isinstance(model, Decoder):
            return decoders.build(model, signature)
        if isinstance(model, HuggingFace):
            if signature.task == LANGUAGE:
                return pretrained_decoders.build(model, signature)
            return text_encoders.build(model, signature)
        if isinstance(model, LinearForecaster | TemporalConvolution):
            return forecasters.build(model, signature)
        if isinstance(model, Factorisation):
            return _make_factorisation(model, signature)
        if isinstance(model, TwoTowers):
            return tower_networks.build(model, signature)
        if isinstance(model, Fusion):

            def build_image(section: Cnn | Torchvision, image: Signature, number: int) -> Network:
                return build(section, image, seed + number, downloads)

            return fusion_networks.build(model, signature, build_image)
        if isinstance(model, Torchvision):
            return _to_channels_last(torchvision_models.build(model, signature, downloads))
        return user_models.build(model, signature)


def _to_channels_last(network: Network) -> Network:
    # The weights must have the memory format of the input, or every convolution converts one.
    return network.to(memory_format=torch.channels_last)


def _make_factorisation(model: Factorisation, signature: Signature) -> Network:
    codes = [name for name, field in signature.fields.items() if field.num_codes]
    if len(codes) < 2:
        found = f"only {codes[0]} is one" if codes else "there is none"
        raise model_problem(
            "model.name",
            "factorisation multiplies the vectors of two columns or more with "
            f"data.features.encodings: embedding, and {found}",
        )
    return Network(
        RecordInput(signature), FactorisationMachine(signature, model.width, model.dropout)
    )


def _vector(signature: Signature) -> tuple[Input | RecordInput, nn.Module, int]:
    """Layers that turn a row into one vector, and the length of this vector."""
    if signature.kind == "record":
        joined = FieldVector(signature)
        return RecordInput(signature), joined, joined.num_outputs
    return Input(signature), nn.Flatten(), torch.Size(signature.shape).numel()


def _make_linear(signature: Signature) -> Network:
    first, vector, num_inputs = _vector(signature)
    return Network(first, nn.Sequential(vector, nn.Linear(num_inputs, signature.num_outputs)))


def _make_mlp(model: Mlp, signature: Signature) -> Network:
    first, vector, num_inputs = _vector(signature)
    layers: list[nn.Module] = [vector]
    for width in model.widths:
        layers += [nn.Linear(num_inputs, width), make_activation(model.activation)]
        # A dropout layer without effect would still shift the names of the weights behind it.
        layers += [nn.Dropout(model.dropout)] if model.dropout else []
        num_inputs = width
    body = nn.Sequential(*layers, nn.Linear(num_inputs, signature.num_outputs))
    initialise(body, model.initialisation)
    return Network(first, body)


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
        layers += pool_and_activate(model.activation)
        num_channels, height, width = block_channels, height // 2, width // 2
    layers += [
        nn.Flatten(),
        nn.Linear(num_channels * height * width, model.hidden),
        make_activation(model.activation),
    ]
    layers += [nn.Dropout(model.dropout)] if model.dropout else []
    body = nn.Sequential(*layers, nn.Linear(model.hidden, signature.num_outputs))
    initialise(body, model.initialisation)
    return body
