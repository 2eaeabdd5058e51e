"""An endpoint on Ray Serve: deployed, changed without a pause, taken down."""

from raydc.serve.deploy import deploy, promote, rollback, shutdown, status, wait
from raydc.serve.ready import Endpoint

__all__ = ["Endpoint", "deploy", "promote", "rollback", "shutdown", "status", "wait"]
