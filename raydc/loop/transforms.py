"""The transforms of `data.augment`: by name from torchvision, or a user's own functions.

Runs in each worker, and in the driver where they are checked. Nothing here looks at more than one
image, so the other rows of a batch do not change what happens to a row.

Shape suffixes: C channels, H height, W width.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from raydc.errors import Problem, SpecError, TrainError, did_you_mean, first_line
from raydc.loop.row_draws import RowDraws, other_generators
from raydc.models import user_models
from raydc.models.build_check import without_trace

PATH = "data.augment.transforms"
# Returns a changed image, uint8 [C, H, W]. Only functions of users take the generator.
Change = Callable[[Tensor, torch.Generator], Any]
# Enough draws to reach most branches of a transform that acts at random.
_NUM_TRIALS = 32
_NUM_REPEATS = 3
_HINT = "draw from the torch.Generator that it is given"
_CONTAINERS = ("Compose", "RandomApply", "RandomChoice", "RandomOrder")
_NORMALISES = "images stay bytes until the network, whose first layer normalises them"
_IS_TENSOR = "an image is a tensor of bytes already"
_ONE_IMAGE = "it makes several images of one"
_BOXES = "it is for boxes or key points, which a row does not have"
_REFUSED = {
    "MixUp": "it mixes rows; set data.augment.mixup",
    "CutMix": "it mixes rows; set data.augment.cutmix",
    "Lambda": "it needs a function; name one of your own as my_package.my_module:function",
    "Normalize": _NORMALISES,
    "LinearTransformation": _NORMALISES,
    "ToDtype": _NORMALISES,
    "ConvertImageDtype": _NORMALISES,
    "ToTensor": _IS_TENSOR,
    "ToImage": _IS_TENSOR,
    "ToPILImage": _IS_TENSOR,
    "PILToTensor": _IS_TENSOR,
    "ToPureTensor": _IS_TENSOR,
    "FiveCrop": _ONE_IMAGE,
    "TenCrop": _ONE_IMAGE,
    "ClampBoundingBoxes": _BOXES,
    "ClampKeyPoints": _BOXES,
    "ConvertBoundingBoxFormat": _BOXES,
    "RandomIoUCrop": _BOXES,
    "SanitizeBoundingBoxes": _BOXES,
    "SanitizeKeyPoints": _BOXES,
    "SetClampingMode": _BOXES,
    "UniformTemporalSubsample": "it is for videos",
}


@dataclass(frozen=True)
class Chain:
    """Transforms that are applied one after the other.

    Attributes:
        steps: Name in the spec and function of each transform, in the order of their use.
    """

    steps: tuple[tuple[str, Change], ...]

    def __call__(self, image_CHW: Tensor, draws: RowDraws) -> Tensor:
        """Changes one image.

        Args:
            image_CHW: Image of bytes (uint8), which may be changed in place.
            draws: Entered by the caller, with the random numbers of this row.

        Raises:
            TrainError: A transform fails or does not return an image of bytes with as many
                channels, or the last one returns a different size.
        """
        shape = image_CHW.shape
        for name, change in self.steps:
            try:
                image_CHW = change(image_CHW, draws.generator)
            # Functions of users may raise anything.
            except Exception as error:
                raise TrainError(
                    f"{PATH}: {name} fails on an image of {_size(shape)} pixels: "
                    f"{type(error).__name__}: {first_line(error)}"
                ) from error
            if reason := _not_an_image(image_CHW, shape[0]):
                raise TrainError(f"{PATH}: {name} {reason}")
        if image_CHW.shape != shape:
            raise TrainError(
                f"{PATH}: the last transform returns {_size(image_CHW)} pixels for {_size(shape)}",
                "End with one that returns the size of the rows: Resize, RandomCrop or "
                f"RandomResizedCrop with size: [{shape[1]}, {shape[2]}].",
            )
        return image_CHW


def make_chain(section: Sequence[Mapping[str, Mapping[str, Any]]]) -> Chain:
    """Builds the transforms that a spec names; tries none of them.

    Args:
        section: `data.augment.transforms` of a spec.

    Raises:
        SpecError: There is no such transform, it does not change one image of bytes, or it refuses
            its options.
    """
    steps = []
    for item in section:
        (name, options), *_ = item.items()
        make = _make_own if ":" in name else _make_named
        steps.append((name, make(name, options)))
    return Chain(tuple(steps))


def try_chain(chain: Chain, shape: Sequence[int]) -> None:
    """Proves on a few images that transforms fit the rows and draw from nothing but their row.

    Args:
        chain: Transforms from `make_chain`.
        shape: Shape of an image, [C, H, W].

    Raises:
        SpecError: A transform fails, returns a different type or size of image, or draws random
            numbers from elsewhere than the generator that it is given.
    """
    source = torch.Generator().manual_seed(0)
    with without_trace():
        for key in range(_NUM_TRIALS):
            image_CHW = torch.randint(256, tuple(shape), generator=source, dtype=torch.uint8)
            foreign, results = [], []
            for _ in range(_NUM_REPEATS):
                before = other_generators()
                results.append(_try_once(chain, image_CHW, key))
                after = other_generators()
                foreign.append({name for name in before if before[name] != after[name]})
            # Another thread may draw meanwhile, but not in every repeat.
            for library in sorted(set.intersection(*foreign)):
                raise _problem(f"{_own_names(chain)} draws from {library}; {_HINT}")
            if not all(torch.equal(result, results[0]) for result in results):
                raise _problem(
                    f"{_own_names(chain)} gives different results for the same image and random "
                    f"numbers; {_HINT}"
                )


def _try_once(chain: Chain, image_CHW: Tensor, key: int) -> Tensor:
    with RowDraws() as draws:
        draws.start_row(key)
        try:
            return chain(image_CHW.clone(), draws)
        except TrainError as error:
            message = error.message.removeprefix(f"{PATH}: ")
            raise _problem(f"{message}. {error.hint}" if error.hint else message) from error


def _own_names(chain: Chain) -> str:
    # Only functions of users can be at fault: torchvision draws from torch alone.
    return " or ".join(name for name, _ in chain.steps if ":" in name) or "a transform"


def _make_own(path: str, options: Mapping[str, Any]) -> Change:
    function = user_models.import_function(path, PATH)
    try:
        inspect.signature(function).bind(None, None, **options)
    except TypeError as error:
        raise _problem(
            f"{path} does not take an image, a generator and its options: {error}"
        ) from error
    # Some callables written in C have no signature to look at.
    except ValueError:
        pass
    return partial(function, **options)


def _make_named(name: str, options: Mapping[str, Any]) -> Change:
    transform = _build(name, options)
    return lambda image_CHW, _: transform(image_CHW)


def _build(name: str, options: Mapping[str, Any]) -> Callable[[Tensor], Any]:
    known = _known()
    if name in _REFUSED:
        raise _problem(f"{name} does not fit: {_REFUSED[name]}")
    if name not in known:
        advice = did_you_mean(name, [*known], num=3) or f"known: {', '.join(known)}"
        raise _problem(f"torchvision.transforms.v2 has no {name}; {advice}")
    given, signature = dict(options), inspect.signature(known[name])
    for option in given:
        if option not in signature.parameters:
            taken = [*signature.parameters]
            advice = did_you_mean(option, taken) or f"it takes {', '.join(taken) or 'none'}"
            raise _problem(f"{name} has no option {option!r}; {advice}")
    if name == "RandomErasing" and given.get("value") == "random":
        raise _problem("RandomErasing: value: random is for images of floats; give a number")
    try:
        signature.bind(**given)
        if name in _CONTAINERS:
            given["transforms"] = [_build_inner(name, item) for item in given["transforms"]]
        transform: Callable[[Tensor], Any] = known[name](**_with_names(given))
    # Raised for an inner transform, and complete already.
    except SpecError:
        raise
    # torchvision checks the values of options itself, with errors of many types.
    except Exception as error:
        raise _problem(f"{name} refuses its options: {first_line(error)}") from error
    return transform


def _build_inner(name: str, item: Any) -> Callable[[Tensor], Any]:
    item = {item: {}} if isinstance(item, str) else item
    if not isinstance(item, Mapping) or len(item) != 1:
        raise _problem(f"{name}: each of its transforms is a name with its options, not {item!r}")
    (inner, options), *_ = item.items()
    if ":" in str(inner):
        raise _problem(f"{name} takes transforms of torchvision only, not {inner}")
    return _build(str(inner), options or {})


def _with_names(options: dict[str, Any]) -> dict[str, Any]:
    """Turns the text of options that are enumerations in torchvision into their members."""
    from torchvision.transforms import v2

    kinds = {"interpolation": v2.InterpolationMode, "policy": v2.AutoAugmentPolicy}
    return {
        key: kinds[key](value) if key in kinds and isinstance(value, str) else value
        for key, value in options.items()
    }


@cache
def _known() -> dict[str, type]:
    # Imported late: torchvision takes a second, and most runs do not need it.
    from torchvision.transforms import v2

    return {
        name: value
        for name, value in sorted(vars(v2).items())
        if re.fullmatch(r"[A-Z]\w*", name)
        and isinstance(value, type)
        and issubclass(value, v2.Transform)
        and value is not v2.Transform
        and name not in _REFUSED
    }


def _not_an_image(value: Any, num_channels: int) -> str | None:
    """What is wrong with the result of a transform; None if it is an image."""
    if not isinstance(value, Tensor):
        return f"gives a {type(value).__name__}, not an image (a tensor)"
    if value.dtype != torch.uint8:
        return f"gives an image of {value.dtype}, not of bytes (uint8)"
    if value.ndim != 3:
        return f"gives a tensor of {value.ndim} dimensions, not [C, H, W]"
    if len(value) != num_channels:
        return f"gives {len(value)} channel(s), not {num_channels}"
    return None


def _size(image: Tensor | Sequence[int]) -> str:
    height, width = (image.shape if isinstance(image, Tensor) else image)[1:]
    return f"{height}x{width}"


def _problem(message: str) -> SpecError:
    return SpecError([Problem("", PATH, message)])
