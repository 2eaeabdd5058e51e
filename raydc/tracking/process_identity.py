"""What tells one process from all others, for the lease of a run. Runs in the driver."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def machine_scope() -> str:
    """The scope in which a process id is valid: this boot of this machine, and this namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        # Without /proc no process can be looked up: a unique scope matches no other process, so
        # that only the heartbeat counts.
        return f"{socket.gethostname()} {os.getpid()}"


def process_start(pid: int) -> str:
    """Start time of a process in clock ticks; empty if there is none, or only a zombie."""
    try:
        # The second field, the name in parentheses, may itself contain spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # Fields 3 (state) and 22 (starttime) of proc(5), counted from the one after the name.
    return "" if fields[0] in "ZX" else fields[19]
