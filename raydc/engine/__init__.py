"""The connection to Ray and Ray Serve, and every private name of Ray that raydc uses."""

from raydc.engine.connection import (
    Engine,
    attach,
    choose_auth,
    connect,
    disconnect,
    find_cause,
    head_address,
    machine,
    runtime_environment,
    sample,
)

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
