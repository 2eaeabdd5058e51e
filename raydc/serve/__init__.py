"""An endpoint on Ray Serve: deployed, changed without a pause, taken down."""

from raydc.serve.control.deploy import (
    deploy,
    promote,
    rollback,
    shutdown,
    status,
    stop,
    wait,
)
from raydc.serve.control.readiness import Endpoint, predict_row

__all__ = [
    "Endpoint",
    "deploy",
    "predict_row",
    "promote",
    "rollback",
    "shutdown",
    "status",
    "stop",
    "wait",
]
