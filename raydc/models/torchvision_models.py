"""Classification networks of torchvision, fitted to the data. Used in workers and replicas."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from raydc.errors import did_you_mean
from raydc.features import Signature
from raydc.models import starting_weights
from raydc.models.network_parts import Input, Network, model_problem, require_images
from raydc.models.starting_weights import AUXILIARY_HEADS
from raydc.spec.model import OWN_MODELS, Torchvision

# Sides that torchvision's networks were made for. An image that is too small for a network is
# enlarged to the next of them.
_SIDES = (32, 64, 96, 128, 224, 299)


def build(model: Torchvision, signature: Signature, downloads: bool = True) -> Network:
    """Makes a network of torchvision; draws its weights from the generator of the process.

    Args:
        model: Section `model` of a spec, with name, arguments and weights.
        signature: Signature of the rows, which must be images.
        downloads: Whether to download weights that are named; False leaves random ones.

    Raises:
        SpecError: torchvision has no such model, its arguments or weights are wrong, or it takes
            no images of this size.
    """
    require_names(model)
    require_images(signature, model.name)
    try:
        body = _make_body(
            model, signature.num_outputs, _named_weights(model) if downloads else None
        )
    except (TypeError, ValueError, KeyError) as error:
        raise model_problem(
            "model", f"torchvision's {model.name} refuses its arguments: {error}"
        ) from error
    except OSError as error:
        raise model_problem(
            "model.weights", f"{model.weights} of {model.name} cannot be downloaded: {error}"
        ) from error
    num_channels = 3 if signature.shape[0] == 1 else None
    sides: list[int | None] = [None, *(side for side in _SIDES if side > min(signature.shape[1:]))]
    named = _named_weights(model)
    if model.input_size is not None:
        sides = [model.input_size]
    for side in sides:
        network = Network(Input(signature, num_channels, side, channels_last=True), body)
        if _takes_rows(network, signature):
            if named is not None:
                _adopt(network, model, named)
            return network
    height, width = signature.shape[1:]
    if model.input_size is not None:
        raise model_problem(
            "model.input_size",
            f"{model.name} takes no {model.input_size}x{model.input_size} images",
        )
    raise model_problem(
        "model.name",
        f"{model.name} takes neither {height}x{width} images nor enlarged ones; set image_size",
    )


def _named_weights(model: Torchvision) -> Any:
    """Weights of torchvision that a section names, as an enumeration's member; None for others."""
    from torchvision import models as zoo

    if model.weights is None or model.weights_file is not None:
        return None
    return zoo.get_model_weights(model.name)[model.weights]


def _adopt(network: Network, model: Torchvision, named: Any) -> None:
    """Takes over the normalisation and the size of images that weights were trained with."""
    given = named.transforms()
    if model.normalisation is None:
        starting_weights.adopt_normalisation(network, given.mean, given.std)
    if model.input_size is None and isinstance(network.input, Input):
        network.input.adopt(None, (), given.crop_size[0])


def require_names(model: Torchvision) -> None:
    """Refuses a model or weights that torchvision does not have; downloads nothing.

    Raises:
        SpecError: The message lists similar names, or all weights of the model.
    """
    # Imported late: torchvision takes a second, and most models do not need it.
    from torchvision import models as zoo

    known = zoo.list_models(module=zoo)
    if model.name not in known:
        there = f"known: {', '.join(OWN_MODELS)} and torchvision's"
        advice = did_you_mean(model.name, [*OWN_MODELS, *known], num=3) or there
        raise model_problem("model.name", f"no model {model.name!r}; {advice}")
    # An enumeration lists a second name of the same weights, DEFAULT, only here.
    names = list(zoo.get_model_weights(model.name).__members__)
    is_name = model.weights is not None and model.weights_file is None
    if is_name and model.weights not in names:
        raise model_problem(
            "model.weights",
            f"{model.name} has no weights {model.weights!r}; there are {', '.join(names)}, or the "
            "path of a file (./NAME for one in this folder)",
        )


def _make_body(model: Torchvision, num_outputs: int, weights: Any) -> nn.Module:
    from torchvision import models as zoo

    arguments: dict[str, Any] = dict(model.arguments)
    heads = AUXILIARY_HEADS.get(model.name, ())
    if heads:
        if arguments.get("aux_logits"):
            raise ValueError("aux_logits would give the network several outputs")
        # torchvision insists on the heads of pretrained networks; they are removed below.
        arguments["aux_logits"] = weights is not None
        # torchvision's default depends on whether weights are given, but a bundle builds the same
        # network without them (see `ModelSection.without_weights`).
        arguments.setdefault("transform_input", False)
    if weights is None:
        body: nn.Module = zoo.get_model(model.name, num_classes=num_outputs, **arguments)
        return body
    pretrained: nn.Module = zoo.get_model(model.name, weights=weights, **arguments)
    for name in heads:
        setattr(pretrained, name, None)
    if heads:
        pretrained.aux_logits = False  # type: ignore[assignment]
    replace_head(pretrained, len(weights.meta["categories"]), num_outputs)
    return pretrained


def replace_head(body: nn.Module, num_before: int, num_outputs: int) -> None:
    """Replaces the last layer of a pretrained network, in place.

    Args:
        body: Pretrained network, which is changed.
        num_before: Classes that it was trained for, by which its last layer is found.
        num_outputs: Outputs of the layer that replaces it.

    Raises:
        ValueError: No layer has `num_before` outputs.
    """
    # From the back: an auxiliary head in the middle has as many outputs.
    for name, layer in reversed(list(body.named_modules())):
        parent = body.get_submodule(name.rpartition(".")[0])
        attribute = name.rpartition(".")[2]
        if isinstance(layer, nn.Linear) and layer.out_features == num_before:
            setattr(parent, attribute, nn.Linear(layer.in_features, num_outputs))
            return
        # SqueezeNet ends in a convolution.
        if isinstance(layer, nn.Conv2d) and layer.out_channels == num_before:
            size: Any = layer.kernel_size
            setattr(parent, attribute, nn.Conv2d(layer.in_channels, num_outputs, size))
            return
    raise ValueError(f"no last layer of {num_before} outputs to replace")


def _takes_rows(network: Network, signature: Signature) -> bool:
    """Whether a network takes a batch; tried on the meta device, which computes shapes only."""
    on_meta = copy.deepcopy(network).to("meta")
    rows = torch.empty((2, *signature.shape), dtype=torch.uint8, device="meta")
    try:
        on_meta(rows)
    except (RuntimeError, ValueError, AssertionError, TypeError):
        return False
    return True
