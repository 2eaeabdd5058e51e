"""Compares a file of weights with its network before there is data. Runs in the driver.

Shapes that follow from the data, such as those of the last layer, are not known yet. The network is
built for two imagined data sets, and shapes that differ between the two are not compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydc.features import Field, Signature
from raydc.models import adapters, networks, weights_file
from raydc.models.starting_weights import AUXILIARY_HEADS
from raydc.spec.model import OF_FIELDS, Builder, Cnn, Linear, Mlp, Model, Torchvision
from raydc.spec.sequence_models import HuggingFace

# A side that every network of torchvision accepts; some refuse small images.
_SIDE = 224
_CLASSES = (("a", "b"), ("a", "b", "c"))
# Vectors of codes in front of the layers, with and without the prefix of models of raydc.
_EMBEDDINGS = ("body.0.embeddings.", "0.embeddings.")


def check_file(model: Model) -> None:
    """Refuses a file of weights that would not fit the network for any data set.

    For a builder of the user's own and for networks whose parts follow from the fields of a row,
    the file is only read: the shapes that they need are known with the real data. So are the
    vectors of codes in front of `linear` and `mlp`, which are left out.

    Args:
        model: Section `model` of a spec, which names a file.

    Raises:
        SpecError: The file cannot be read, or its tensors are missing, unexpected or of a
            different shape.
    """
    tensors = weights_file.read(model)
    if isinstance(model, (Builder, *OF_FIELDS)):
        return
    # The imagined rows have no codes; the layers behind them are compared all the same.
    if isinstance(model, Linear | Mlp):
        tensors = {name: t for name, t in tensors.items() if not name.startswith(_EMBEDDINGS)}
    # Frozen layers have no effect on shapes, and their names are checked with the data.
    plain = model.without_weights().model_copy(update={"freeze": [], "normalisation": None})
    if isinstance(plain, HuggingFace) and not any(map(adapters.is_added, tensors)):
        plain = plain.model_copy(update={"lora": None})
    with torch.device("meta"):
        first, second = (networks.build(plain, one, 0) for one in imagine(model))
    unused = AUXILIARY_HEADS.get(model.name, ()) if isinstance(model, Torchvision) else ()
    weights_file.fit(first, _fill_in(first, second, tensors), str(model.weights_file), unused)


def imagine(model: Model) -> list[Signature]:
    """Signatures of two data sets that differ in everything that a data set decides."""
    if isinstance(model, HuggingFace):
        # One token is enough to know the shapes, which follow from the folder.
        text = {"text": Field("list", "uint8", num_codes=1, max_length=1)}
        return [
            Signature("record", (), "", (), (), "classification", classes, text)
            for classes in _CLASSES
        ]
    if isinstance(model, Torchvision):
        # torchvision's networks take three channels, and grey images are repeated.
        shapes = [(3, _SIDE, _SIDE)] * 2
    elif isinstance(model, Cnn):
        side = 2 << len(model.block_channels)
        shapes = [(1, side, side), (3, 2 * side, 2 * side)]
    else:
        shapes = [(1, 4, 4), (1, 6, 6)]
    return [
        Signature("image", shape, "uint8", zeros, zeros, "classification", classes)
        for shape, classes in zip(shapes, _CLASSES, strict=True)
        for zeros in [(1.0,) * shape[0]]
    ]


def _fill_in(first: nn.Module, second: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file; those whose shape follows from the data are taken from `first`."""
    others = second.state_dict()
    open_shapes = {
        name: tensor
        for name, tensor in first.state_dict().items()
        if tensor.shape != others[name].shape
    }
    filled = dict(tensors)
    for name, tensor in open_shapes.items():
        for form in (name, name.removeprefix("body.")):
            if form in filled and filled[form].ndim == tensor.ndim:
                filled[form] = tensor
    return filled
