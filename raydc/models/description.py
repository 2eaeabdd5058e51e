"""Lines about a network for the user: its weights, what trains, and what is not as the spec says.

Runs in the driver.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from raydc.features import Signature, TokenBlock
from raydc.features.byte_pairs import NUM_BYTES
from raydc.models import adapters, networks
from raydc.models.frozen_body import find_tail, why_no_cut
from raydc.models.frozen_layers import count_trained
from raydc.models.network_parts import Input, Network
from raydc.models.weights_check import imagine
from raydc.spec.data import Data
from raydc.spec.feature_options import FeatureOptions
from raydc.spec.language import LANGUAGE, TEXT
from raydc.spec.model import OF_FIELDS, Builder, Linear, Mlp, Model, Torchvision
from raydc.spec.sequence_models import Decoder, HuggingFace

_MOST_NAMED = 4


def describe(model: Model, network: Network, data: Data, caches: bool = True) -> list[str]:
    """Describes a network that was built for its data; no lines for one that starts and trains as
    usual, unless it is a decoder.

    Args:
        model: Section `model` of the spec.
        network: Network that was built from the section.
        data: Section `data` of the spec, whose options the weights may contradict.
        caches: Whether outputs of a frozen body are kept, `train.cache_frozen`.
    """
    lines = list(network.notes)
    has_adapters = isinstance(model, HuggingFace) and model.lora is not None
    if data.task == LANGUAGE:
        lines.append(_parameters_of(network))
    if model.freeze or has_adapters:
        trained, everything = count_trained(network)
        lines.append(f"trains {trained:,} of {everything:,} parameters: {_names(network)}")
    if model.freeze:
        lines.append(_frozen_part(network, data, caches))
    return lines + _contradictions(model, network, data.features)


def describe_early(model: Model, data: Data, caches: bool = True) -> list[str]:
    """Describes a network before there is data, as far as it does not depend on the data.

    Args:
        model: Section `model` of the spec.
        data: Section `data` of the spec.
        caches: Whether outputs of a frozen body are kept, `train.cache_frozen`.

    Raises:
        SpecError: Frozen layers name nothing, or all that could train.
    """
    if isinstance(model, Decoder):
        return _of_decoder(model, data)
    if data.task == LANGUAGE and isinstance(model, HuggingFace):
        return _of_pretrained_decoder(model, data)
    # A builder of the user's own may need the real data, as does a network of fields.
    is_encoder = isinstance(model, HuggingFace)
    starts_plain = not (model.freeze or model.weights or model.normalisation or is_encoder)
    is_open = isinstance(model, (Builder, *OF_FIELDS)) and not is_encoder
    if starts_plain or is_open or _has_codes(model, data):
        return []
    example, _ = imagine(model)
    classes = tuple(data.classes or data.label_columns or ())
    num_classes = len(classes)
    of_outputs = f"{num_classes or 'two'} classes"
    if num_classes:
        example = replace(example, classes=classes)
    elif data.task == "regression":
        example, of_outputs = replace(example, task="regression", classes=()), "one value"
    plain = model if isinstance(model, Torchvision) and not model.weights_file else _plain(model)
    with torch.device("meta"):
        network = networks.build(plain, example, 0, downloads=False)
    lines = []
    if model.weights_file is not None:
        lines.append(f"starts with the weights of {model.weights_file}")
    elif isinstance(model, HuggingFace):
        lines.append(f"starts with the weights of {model.path}")
    has_adapters = isinstance(model, HuggingFace) and model.lora is not None
    if (model.freeze and isinstance(model, Torchvision | HuggingFace)) or has_adapters:
        trained, everything = count_trained(network)
        lines.append(
            f"trains {trained:,} of {everything:,} parameters with {of_outputs}: {_names(network)}"
        )
    elif model.freeze:
        lines.append(f"trains {_names(network)}; the others are frozen")
    if model.freeze:
        lines.append(_frozen_part(network, data, caches))
    return lines + _contradictions(model, network, data.features)


def _of_decoder(model: Decoder, data: Data) -> list[str]:
    """Number of parameters, which depends on the number of codes."""
    options = data.features.text
    if options.tokenizer is not None:
        return []
    most = max(options.vocabulary, NUM_BYTES + 1)
    block = TokenBlock(most, data.blocks.length, most - 1)
    with torch.device("meta"):
        network = networks.build(_plain(model), _imagine_tokens(block), 0)
    return [f"{_parameters_of(network)} with {most:,} codes, the most that are learnt"]


def _of_pretrained_decoder(model: HuggingFace, data: Data) -> list[str]:
    signature = _imagine_tokens(TokenBlock(2, data.blocks.length, 1))
    with torch.device("meta"):
        network = networks.build(_plain(model), signature, 0)
    source = model.weights_file or model.path
    trained, everything = count_trained(network)
    lines = [f"starts with the weights of {source}", _parameters_of(network)]
    if model.freeze or model.lora is not None:
        lines.append(f"trains {trained:,} of {everything:,} parameters: {_names(network)}")
    return lines


def _imagine_tokens(block: TokenBlock) -> Signature:
    return Signature(
        "record", (), "", (), (), LANGUAGE, fields={TEXT: block.field}, num_values=block.length
    )


def _parameters_of(network: Network) -> str:
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"decoder of {count:,} parameters"


def _has_codes(model: Model, data: Data) -> bool:
    """Whether vectors of codes stand in front of the layers, which `freeze` may name."""
    features = data.features
    codes = "embedding" in features.encodings.values() or "text" in features.columns.values()
    return codes and isinstance(model, Linear | Mlp)


def _frozen_part(network: Network, data: Data, caches: bool) -> str:
    """Whether the frozen layers are computed once, and if not, why."""
    reason = "data.augment changes the rows in each epoch" if data.augment else None
    reason = reason or why_no_cut(network) or (None if caches else "train.cache_frozen is false")
    if reason is not None:
        return f"frozen layers are computed in each epoch: {reason}"
    tail = find_tail(network)[0]
    name = next(name for name, module in network.named_modules() if module is tail)
    return f"layers before {name} are computed once, and their outputs kept with the data set"


def _plain(model: Model) -> Model:
    return model.without_weights().model_copy(update={"normalisation": None})


def _names(network: Network) -> str:
    names = [name for name, value in network.named_parameters() if value.requires_grad]
    added = [name for name in names if adapters.is_added(name)]
    if added:
        names = [name for name in names if name not in added]
        # Two tensors for each layer.
        names.insert(0, f"adapters of {len(added) // 2} linear layers")
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _contradictions(model: Model, network: Network, features: FeatureOptions) -> list[str]:
    """Options of the data that the network does not follow, and how to make it."""
    lines: list[str] = []
    first = network.input
    if not isinstance(first, Input):
        return lines
    # Constants that do not come from the data come from pretrained weights or from the spec.
    if model.normalisation is None and first.is_adopted and features.scale in ("min_max", "none"):
        lines.append(
            f"note: data.features.scale: {features.scale} is not used, because the weights bring "
            "their own normalisation; model.normalisation: data would use it"
        )
    side, size = first.side, features.image_size
    if size is not None and side is not None and size != [side, side]:
        lines.append(
            f"note: images of data.features.image_size {size[0]}x{size[1]} are resized to "
            f"{side}x{side} for the network; model.input_size sets a different size"
        )
    return lines
