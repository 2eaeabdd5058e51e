"""The weights that a network starts with, and the normalisation and size that belong to them.

Used where networks are built.
"""

from __future__ import annotations

from collections.abc import Sequence

from raydc.models import weights_file
from raydc.models.network_parts import Input, Network, model_problem
from raydc.spec.model import Torchvision
from raydc.spec.model_section import ModelSection, Normalisation

# Pixels are stored from 0 to 255; torchvision gives its constants for pixels from 0 to 1.
_WHITE = 255.0
# Layers that return further outputs while the network trains.
AUXILIARY_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}


def load(network: Network, model: ModelSection) -> None:
    """Loads the file of a section into a network, and notes what it did not take.

    Args:
        network: A new network with random weights; changed in place.
        model: Section `model` of a spec.

    Raises:
        SpecError: The file cannot be read, or does not fit the network.
    """
    path = model.weights_file
    if path is not None:
        unused = AUXILIARY_HEADS.get(model.name, ()) if isinstance(model, Torchvision) else ()
        found = weights_file.fit(network, weights_file.read(model), path, unused)
        weights_file.load(network, found)
        network.notes.append(f"starts with {len(found.taken)} tensors of {path}")
        if found.left:
            network.notes.append(f"not taken from it: {', '.join(found.left)}")
        if "mean" in found.inputs:
            _adopt_file(network, model, found)
        elif (
            isinstance(network.input, Input)
            and network.input.normalises
            and model.normalisation is None
        ):
            network.notes.append(
                "note: the file has no normalisation of its own, so images are normalised by the "
                "data set; model.normalisation takes the mean and std that it was trained with"
            )
    if isinstance(model.normalisation, Normalisation):
        adopt_normalisation(network, model.normalisation.mean, model.normalisation.std)


def _adopt_file(network: Network, model: ModelSection, found: weights_file.Fit) -> None:
    mean, scale = (found.inputs[name].flatten().tolist() for name in ("mean", "scale"))
    side = found.inputs.get("own_side")
    if isinstance(model, Torchvision) and model.input_size is not None:
        side = None
    own, first = model.normalisation is None, network.input
    if not isinstance(first, Input):
        return
    if own and first.normalises:
        _require_channels(first, mean)
    first.adopt(mean if own else None, scale, None if side is None else int(side))


def adopt_normalisation(network: Network, mean: Sequence[float], std: Sequence[float]) -> None:
    """Makes the input layer normalise images by given numbers.

    Args:
        network: A new network; changed in place.
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Standard deviation of each channel, for pixels from 0 to 1.

    Raises:
        SpecError: The images have a different number of channels, or the rows are not images.
    """
    first = network.input
    if not isinstance(first, Input) or not first.normalises:
        raise model_problem(
            "model.normalisation", "it is for images, and the rows are not images; leave it out"
        )
    _require_channels(first, mean)
    first.adopt([_WHITE * one for one in mean], [_WHITE * one for one in std], None)


def _require_channels(first: Input, mean: Sequence[float]) -> None:
    stored = len(first.mean)
    allowed = {1, stored, first.num_channels or stored}
    if len(mean) not in allowed:
        raise model_problem(
            "model.normalisation",
            f"it has numbers for {len(mean)} channels, and the images have {stored}; give one "
            "number for each channel, or one for all",
        )
