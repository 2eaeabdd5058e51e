"""The process group of the workers: who joins whom, and what code of users finds."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed

from raydc.elastic import process_group
from raydc.elastic.process_group import ProcessGroupBackend, ProcessGroupConfig

CONFIG = ProcessGroupConfig("cpu:gloo,cuda:nccl", timeout_s=7)


class Workers:
    """A group that notes what its workers are asked to do."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Any, tuple[Any, ...]]] = []

    def __len__(self) -> int:
        return 3

    def execute_single(self, rank: int, function: Callable[[], Any]) -> Any:
        self.asked.append((rank, function, ()))
        return "10.0.0.7", 4711

    def execute_single_async(self, rank: int, function: Any, *arguments: Any) -> int:
        self.asked.append((rank, function, arguments))
        return rank


def test_all_workers_join_at_the_address_of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(ray, "get", waited.append)
    workers = Workers()
    assert CONFIG.backend_cls is ProcessGroupBackend
    ProcessGroupBackend().on_start(workers, CONFIG)
    (first, *joins) = workers.asked
    assert first == (0, process_group.find_address, ())
    expected = [(rank, (CONFIG.backend, rank, 3, "10.0.0.7", 4711, 7)) for rank in range(3)]
    assert [(rank, arguments) for rank, _, arguments in joins] == expected
    assert {function for _, function, _ in joins} == {process_group.join}
    assert waited == [[0, 1, 2]], "the start waits for all of them"


def test_worker_joins_and_sets_what_torchrun_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    place = SimpleNamespace(
        get_local_rank=lambda: 0, get_local_world_size=lambda: 1, get_node_rank=lambda: 0
    )
    monkeypatch.setattr(ray.train, "get_context", lambda: place)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    # What is set now is put back by the fixture.
    for name in (*names, "LOCAL_WORLD_SIZE", "NODE_RANK", "ACCELERATE_TORCH_DEVICE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    host, port = process_group.find_address()
    # Nobody listens there yet.
    with socket.socket() as free:
        free.bind((host, port))
    process_group.join("gloo", 0, 1, host, port, 30)
    try:
        assert [os.environ[name] for name in names] == [host, str(port), "0", "1", "0"]
        total = torch.ones(2)
        torch.distributed.all_reduce(total)
        assert total.tolist() == [1.0, 1.0]
        assert torch.distributed.get_world_size() == 1
    finally:
        torch.distributed.destroy_process_group()
    with CONFIG.train_func_context():
        assert torch.zeros(1).device.type == "cpu"
