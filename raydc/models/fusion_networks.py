"""Fusion: a network for each field of a row, whose vectors are joined under one head.

Used in workers and replicas. Images pass through a network of their own, with its own input layer
and so with the normalisation of its weights; texts and series through a recurrent network or a
transformer; all other fields through layers over one vector.

Shape suffixes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from raydc.features import Field, Signature
from raydc.features.record import LENGTH
from raydc.models.layer_options import make_activation
from raydc.models.network_parts import Network, RecordInput, model_problem
from raydc.models.record_networks import FieldVector
from raydc.models.sequence_networks import Reader, make_reader
from raydc.spec.model import Cnn, Fusion, Torchvision
from raydc.spec.sequence_models import Recurrent

# Makes the network for images with a signature; the number tells the images of a row apart.
BuildImage = Callable[[Cnn | Torchvision, Signature, int], Network]

_DEFAULT_TABLE = [64]
_DEFAULT_READER = Recurrent(name="gru", width=64)


def build(model: Fusion, signature: Signature, build_image: BuildImage) -> Network:
    """Makes the network; draws its weights from the generator of the process.

    Args:
        model: Section `model` of a spec.
        signature: Signature of the rows, a record.
        build_image: Makes the network for a column of images.

    Raises:
        SpecError: The rows are one array, or have no field for a part that the section describes.
    """
    images = {name: field for name, field in signature.fields.items() if field.mean}
    lists = {name: field for name, field in signature.fields.items() if field.form == "list"}
    others = {n: f for n, f in signature.fields.items() if n not in images and n not in lists}
    _check(model, signature, images, lists, others)
    networks = [
        build_image(model.image or Cnn(name="cnn"), _of_image(field, model.width), number)
        for number, field in enumerate(images.values())
    ]
    readers = [make_reader(model.sequence or _DEFAULT_READER, field) for field in lists.values()]
    table = None
    if others:
        joined = FieldVector(Signature("record", (), "", (), (), "regression", (), others))
        table = _layers(model, model.table or _DEFAULT_TABLE, joined.num_outputs, joined)
    width = model.width * len(images) + sum(reader.num_outputs for reader in readers)
    width += (model.table or _DEFAULT_TABLE)[-1] if others else 0
    head = _layers(model, model.hidden, width)
    last = model.hidden[-1] if model.hidden else width
    head.append(nn.Linear(last, signature.num_outputs))
    body = _Fused([*images], networks, [*lists], readers, table, head)
    return Network(RecordInput(signature, keeps_pixels=True), body)


def _check(
    model: Fusion,
    signature: Signature,
    images: Mapping[str, Field],
    lists: Mapping[str, Field],
    others: Mapping[str, Field],
) -> None:
    if signature.kind != "record":
        kind = "images, for which there is cnn" if signature.kind == "image" else "numbers: mlp"
        message = f"fusion joins fields of several kinds, and the rows are {kind}"
        raise model_problem("model.name", message)
    for part, found, what in (
        ("image", images, "no column of images"),
        ("sequence", lists, "neither a text nor a series"),
        ("table", others, "neither numbers nor categories"),
    ):
        if getattr(model, part) is not None and not found:
            raise model_problem(f"model.{part}", f"the rows have {what}; leave it out")


def _of_image(field: Field, width: int) -> Signature:
    # Only the number of outputs counts; a multilabel task may have any number.
    outputs = tuple(map(str, range(width)))
    return Signature("image", field.shape, "uint8", field.mean, field.scale, "multilabel", outputs)


def _layers(
    model: Fusion, widths: Sequence[int], num_inputs: int, *first: nn.Module
) -> nn.Sequential:
    layers = nn.Sequential(*first)
    for width in widths:
        layers.append(nn.Linear(num_inputs, width))
        layers.append(make_activation(model.activation))
        if model.dropout:
            layers.append(nn.Dropout(model.dropout))
        num_inputs = width
    return layers


class _Fused(nn.Module):
    """Joins the outputs of the networks of all fields, and ends with the head."""

    def __init__(
        self,
        image_names: list[str],
        images: Sequence[Network],
        list_names: list[str],
        readers: Sequence[Reader],
        table: nn.Module | None,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.image_names = image_names
        self.images = nn.ModuleList(images)
        self.list_names = list_names
        self.readers = nn.ModuleList(readers)
        self.table = table
        self.head = head

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        parts: list[Tensor] = [
            network(inputs[name])
            for name, network in zip(self.image_names, self.images, strict=True)
        ]
        parts += [
            reader(inputs[name], inputs[name + LENGTH])
            for name, reader in zip(self.list_names, self.readers, strict=True)
        ]
        if self.table is not None:
            parts.append(self.table(inputs))
        outputs: Tensor = self.head(torch.cat(parts, dim=1))
        return outputs
