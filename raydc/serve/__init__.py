"""Endpoints on Ray Serve: deploy, change without a pause, take down. Called in the driver."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydc.serve.control.alias_move import Moved, promote, rollback
    from raydc.serve.control.deploy import (
        deploy,
        shutdown,
        status,
        stop,
        wait,
    )
    from raydc.serve.control.held_out_request import ask_held_out
    from raydc.serve.control.path_report import describe_path
    from raydc.serve.control.readiness import Endpoint, predict_row
    from raydc.serve.control.recorded_endpoint import notes_before_serving

__all__ = [
    "Endpoint",
    "Moved",
    "ask_held_out",
    "deploy",
    "describe_path",
    "notes_before_serving",
    "predict_row",
    "promote",
    "rollback",
    "shutdown",
    "status",
    "stop",
    "wait",
]
_HOMES = {
    **dict.fromkeys(("Moved", "promote", "rollback"), "alias_move"),
    **dict.fromkeys(("deploy", "shutdown", "status", "stop", "wait"), "deploy"),
    "ask_held_out": "held_out_request",
    "describe_path": "path_report",
    **dict.fromkeys(("Endpoint", "predict_row"), "readiness"),
    "notes_before_serving": "recorded_endpoint",
}


def __getattr__(name: str) -> Any:
    """Imports a part of the driver at its first use: replicas import this package and need none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.control.{_HOMES[name]}"), name)
