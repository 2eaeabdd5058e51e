"""Endpoints on Ray Serve: deploy, change without a pause, take down. Called in the driver."""

from raydc.serve.control.deploy import (
    deploy,
    promote,
    rollback,
    shutdown,
    status,
    stop,
    wait,
)
from raydc.serve.control.path_report import describe_path
from raydc.serve.control.readiness import Endpoint, predict_row

__all__ = [
    "Endpoint",
    "deploy",
    "describe_path",
    "predict_row",
    "promote",
    "rollback",
    "shutdown",
    "status",
    "stop",
    "wait",
]
