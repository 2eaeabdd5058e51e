"""Probes of nodes: a connection to each raylet on top of Ray's own list."""

from __future__ import annotations

import socket

import pytest

from raydc.elastic import group_size, node_probe
from raydc.engine import internals


def test_probe_finds_dead_and_draining_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused port means a dead raylet, whatever Ray believes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        nodes = [
            {
                "NodeID": name,
                "Alive": alive,
                "NodeManagerAddress": "127.0.0.1",
                "NodeManagerPort": port + offset,
            }
            for name, alive, offset in (("a", True, 0), ("gone", False, 0), ("drains", True, 0))
        ]
        monkeypatch.setattr(node_probe.ray, "nodes", lambda: nodes)
        monkeypatch.setattr(
            internals, "available_resources_per_node", lambda: {"a": {"CPU": 1.0}}, False
        )
        monkeypatch.setattr(internals, "draining_nodes", lambda: {"drains": 5000})
        address = f"127.0.0.1:{port}"
        assert node_probe.probe_nodes() == [
            group_size.Node("a", {"CPU": 1.0}, address=address),
            group_size.Node("drains", {}, drains_at_s=5.0, address=address),
        ]
    assert [node.responds for node in node_probe.probe_nodes()] == [False, False]
