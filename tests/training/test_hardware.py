import os

import pytest
import torch

from lenet_study.errors import UserError
from lenet_study.training.hardware import Hardware, share


@pytest.fixture(autouse=True)
def settings():
    """What a preparation sets for the whole process is put back."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_threads_are_set():
    Hardware(device="cpu", threads=2).prepare()
    assert torch.get_num_threads() == 2
    Hardware(device="cpu", threads=1).prepare()
    assert torch.get_num_threads() == 1


def test_zero_threads_take_all_cores_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5})
    Hardware(device="cpu", threads=0).prepare()
    assert torch.get_num_threads() == 3


def test_computation_is_repeatable(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(False)
    Hardware(device="cpu", threads=1).prepare()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    assert not torch.backends.cudnn.allow_tf32


def test_a_workspace_that_the_user_chose_is_kept(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    Hardware(device="cpu", threads=1).prepare()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.usefixtures("no_gpu")
def test_cuda_without_a_gpu_is_refused_before_anything_is_set():
    torch.use_deterministic_algorithms(False)
    with pytest.raises(UserError, match=r"device=cuda .*: use device=cpu"):
        Hardware(device="cuda", threads=2).prepare()
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_the_processor_computes(device):
    assert Hardware(device=device, threads=1).prepare() == torch.device("cpu")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("device", "expected"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_with_a_gpu_the_device_is_as_asked(device, expected):
    assert Hardware(device=device, threads=1).prepare() == torch.device(expected)


@pytest.mark.parametrize(
    ("threads", "workers", "expected"),
    [
        (0, 0, (8, 1)),
        (0, 2, (2, 4)),
        (0, 3, (3, 2)),
        (0, 1, (1, 8)),
        (0, 20, (20, 1)),
        (2, 0, (4, 2)),
        (16, 0, (1, 16)),
        (1, 3, (3, 1)),
    ],
)
def test_workers_share_the_cores(monkeypatch, threads, workers, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    side_by_side, machine = share(Hardware(device="cpu", threads=threads), workers)
    assert (side_by_side, machine.threads) == expected
    assert machine.device == "cpu"
