"""Endpoints on Ray Serve: deploy, change without a pause, take down. Called in the driver."""

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
