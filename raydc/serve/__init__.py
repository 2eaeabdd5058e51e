"""An endpoint on Ray Serve: deployed, changed without a pause, taken down."""

from raydc.serve.deploy import deploy, promote, rollback, shutdown, status, wait
from raydc.serve.ready import Endpoint, ask

__all__ = ["Endpoint", "ask", "deploy", "promote", "rollback", "shutdown", "status", "wait"]
