"""An endpoint on Ray Serve: deployed, changed without a pause, taken down."""

from raydc.serve.control.deploy import deploy, promote, rollback, shutdown, status, wait
from raydc.serve.control.readiness import Endpoint, ask

__all__ = ["Endpoint", "ask", "deploy", "promote", "rollback", "shutdown", "status", "wait"]
