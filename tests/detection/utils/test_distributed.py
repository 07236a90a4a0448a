import time

import pytest
import torch
import torch.distributed as dist
from ranks import two_ranks

from detection.utils import distributed
from detection.utils.distributed import (
    connect,
    disconnect,
    gather,
    is_distributed,
    is_leader,
    local_rank,
    local_world_size,
    rank,
    share,
    world_size,
)

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_without_torchrun_there_is_one_process():
    assert (rank(), world_size(), local_rank(), local_world_size()) == (0, 1, 0, 1)
    assert is_leader()
    assert not is_distributed()


def test_torchruns_numbers_are_read(monkeypatch):
    for name, value in zip(NAMES, "5821", strict=True):
        monkeypatch.setenv(name, value)
    assert (rank(), world_size(), local_rank(), local_world_size()) == (5, 8, 2, 1)
    assert not is_leader()


def test_one_process_is_not_connected():
    connect(CPU)
    assert not dist.is_initialized()
    disconnect()


@pytest.mark.parametrize(
    ("device", "backend"), [(CPU, "gloo"), (torch.device("cuda", 0), "nccl"), (torch.device("mps"), "gloo")]
)
def test_processes_connect_by_their_device(monkeypatch, device, backend):
    asked = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", asked.append)
    connect(device)
    assert asked == [backend]


def test_rows_of_one_process_are_its_own():
    rows = [1, "a", None]
    assert gather(rows) == rows
    assert gather([]) == []


@pytest.mark.parametrize(("own_rank", "wanted"), [(0, ["a", "b", "c"]), (1, [])])
def test_rank_0_gets_all_rows_in_the_order_of_ranks(monkeypatch, own_rank, wanted):
    def gather_object(rows, parts):
        if parts is not None:
            parts[:] = [["a"], [], ["b", "c"]]

    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "get_rank", lambda: own_rank)
    monkeypatch.setattr(dist, "gather_object", gather_object)
    assert gather(["a"]) == wanted


def test_tensors_of_one_process_are_shared_with_nobody():
    share([torch.ones(2)], "test")
    assert not dist.is_initialized()


def sharing():
    """A rank's part: what it gets, and whether the run's own group connects afterwards."""
    values = [torch.arange(24.0).view(1, 2, 3, 4) * is_leader(), torch.tensor(7 if is_leader() else 0)]
    if is_leader():
        time.sleep(1)
        values[0] = values[0].to(memory_format=torch.channels_last)
    share(values, "first")
    share([values[1]], "second")
    connect(CPU)
    return values, gather([rank()])


def test_ranks_wait_for_rank_0_and_get_its_tensors():
    for number, (values, gathered) in enumerate(two_ranks(sharing)):
        assert torch.equal(values[0], torch.arange(24.0).view(1, 2, 3, 4))
        assert values[1] == 7
        assert gathered == ([] if number else [0, 1])
