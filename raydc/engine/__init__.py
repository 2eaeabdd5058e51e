"""The connection to Ray and Ray Serve, and every private name of Ray that raydc uses."""

from raydc.engine.connection import (
    Engine,
    attach,
    connect,
    disconnect,
    head_address,
    machine,
    runtime_environment,
    sample,
)
from raydc.engine.error_cause import find_cause
from raydc.engine.ray_token import choose_auth

__all__ = [
    "Engine",
    "attach",
    "choose_auth",
    "connect",
    "disconnect",
    "find_cause",
    "head_address",
    "machine",
    "runtime_environment",
    "sample",
]
