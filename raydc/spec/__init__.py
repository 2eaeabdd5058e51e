"""The spec: one YAML file, strict, with a place for every problem."""

from raydc.spec.changes import Change, differences
from raydc.spec.load import (
    absolute,
    add_places,
    from_dict,
    load,
    loads,
    resolve,
    to_dict,
    with_defaults,
    with_values,
)
from raydc.spec.resolved import ResolvedSpec
from raydc.spec.sections import Spec

__all__ = [
    "Change",
    "ResolvedSpec",
    "Spec",
    "absolute",
    "add_places",
    "differences",
    "from_dict",
    "load",
    "loads",
    "resolve",
    "to_dict",
    "with_defaults",
    "with_values",
]
