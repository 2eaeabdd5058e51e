"""The networks of a sweep's points, built without numbers before anything starts.

Runs in the driver. Networks are on the meta device, so that the largest takes no memory. Sizes that
follow from the data are not known yet: weights whose shape they change are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raydc.elastic.trial_draws import known_points
from raydc.errors import Problem, SpecError
from raydc.models import networks
from raydc.models.section_check import check_section
from raydc.models.weights_check import imagine
from raydc.search.learned_points import Observation
from raydc.spec import ResolvedSpec
from raydc.spec.model import OF_FIELDS, Builder, Model
from raydc.spec.sequence_models import HuggingFace
from raydc.tracking import trials

_MOST_NAMED = 3


def describe_points(spec: ResolvedSpec, known: Sequence[Observation] = ()) -> list[str]:
    """Builds the networks of the points that depend on no result, and says how large they are.

    Args:
        spec: The resolved spec of a sweep.
        known: Results of other sweeps, with which it begins.

    Raises:
        SpecError: Networks that cannot be built, by the values of their points.
    """
    assert spec.sweep is not None
    points = known_points(spec, known)
    sizes: dict[str, int | None] = {}
    problems = []
    for point in points:
        try:
            model = trials.trial_spec(spec, point).model
            # Points that differ in their training only have one network.
            if (section := model.model_dump_json()) not in sizes:
                check_section(model)
                sizes[section] = count_parameters(model)
        except SpecError as error:
            text = f"{trials.format_values(point)}: {error.problems[0].message}"
            problems.append(Problem("", "sweep.space", text))
    if problems:
        more = len(problems) - _MOST_NAMED
        if more > 0:
            text = f"{more} more of {len(points)} points cannot be built"
            problems[_MOST_NAMED:] = [Problem("", "sweep.space", text)]
        raise SpecError(problems)
    found = sorted(size for size in sizes.values() if size is not None)
    lines = []
    if found:
        range_of = f"{found[0]:,}" if found[0] == found[-1] else f"{found[0]:,} to {found[-1]:,}"
        lines.append(
            f"{len(sizes)} networks of {range_of} parameters, without those that follow from the "
            "data"
        )
    if len(points) < spec.sweep.num_samples and spec.sweep.search_alg != "grid":
        lines.append(
            f"the points of the first {len(points)} samples are known; each of the others follows "
            "from results"
        )
    return lines


def count_parameters(model: Model) -> int | None:
    """Counts the parameters whose shape is the same for all data sets.

    Args:
        model: Section `model` of a trial.

    Returns:
        Their number; None for a network that can be built with its data only.

    Raises:
        SpecError: The network cannot be built.
    """
    if isinstance(model, Builder) or (
        isinstance(model, OF_FIELDS) and not isinstance(model, HuggingFace)
    ):
        return None
    plain = model.without_weights().model_copy(update={"freeze": [], "normalisation": None})
    with torch.device("meta"):
        first, second = (networks.build(plain, one, 0) for one in imagine(model))
    shapes = {name: one.shape for name, one in second.named_parameters()}
    return sum(one.numel() for name, one in first.named_parameters() if one.shape == shapes[name])
