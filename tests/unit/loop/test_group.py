"""The group of workers of a run."""

from __future__ import annotations

import os
import socket

import pytest
import torch

from raydc.loop.group import Alone, peers
from raydc.loop.lost_peer import PeerLostError


def test_peers_with_runtime_error_raises_peer_lost_with_first_line() -> None:
    message = r"^lost the other workers: Connection closed by peer$"
    with pytest.raises(PeerLostError, match=message), peers():
        raise RuntimeError("Connection closed by peer\nmore")


def test_peers_with_empty_message_raises_peer_lost() -> None:
    with pytest.raises(PeerLostError, match="lost the other workers"), peers():
        raise RuntimeError


def test_alone_returns_its_own_values() -> None:
    group, parts = Alone(), torch.arange(3.0)[None]
    whole = torch.zeros(3)
    group.gather(whole, parts)
    assert torch.equal(whole, parts[0])
    group.exchange(whole, parts[0] + 1, [3], [3])
    assert torch.equal(whole, parts[0] + 1)
    group.sum_(whole)
    assert torch.equal(whole, parts[0] + 1)
    assert group.broadcast([4, -1]) == [4, -1]
    assert group.members() == [(socket.gethostname(), os.getpid())]
