"""Versions of the libraries with which a bundle was written. Pure."""

from __future__ import annotations

import importlib.metadata
import platform

import numpy as np
import torch

from raydc.spec import ResolvedSpec
from raydc.spec.sections import HuggingFace


def describe_libraries(spec: ResolvedSpec) -> dict[str, str]:
    """Versions by name of what computes the model of a spec."""
    own = spec.model.libraries if isinstance(spec.model, HuggingFace) else ()
    return {name: importlib.metadata.version(name) for name in own} | {
        "raydc": raydc_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def raydc_version() -> str:
    """Version of raydc."""
    return importlib.metadata.version("raydc")
