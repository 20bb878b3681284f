"""Where a command computes: device, threads, repeatability."""

import os

import pytest
import torch

from lenet_study.errors import UserError
from lenet_study.training.hardware import SPIN_COUNT, Hardware, cores, divide_cores, limit_spinning


@pytest.fixture(autouse=True)
def settings():
    """What a preparation sets for the whole process is put back."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(params=[True, False], ids=["gpu", "no gpu"])
def gpu(request, monkeypatch):
    """Whether torch sees a GPU; once with, once without."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return request.param


@pytest.fixture
def use_cores(monkeypatch):
    """Set the cores that the process may use."""
    return lambda numbers: monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(numbers))


def test_one_thread_is_the_default():
    """The same recipe and seed give the same bits alone and in a study."""
    assert Hardware() == Hardware(device="auto", threads=1)
    Hardware(device="cpu").prepare()
    assert torch.get_num_threads() == 1


def test_threads_are_set():
    Hardware(device="cpu", threads=2).prepare()
    assert torch.get_num_threads() == 2
    Hardware(device="cpu", threads=1).prepare()
    assert torch.get_num_threads() == 1


def test_zero_threads_take_all_cores_that_the_process_may_use(use_cores):
    use_cores({0, 2, 5})
    assert cores() == 3
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


@pytest.mark.parametrize("device", ["auto", "cuda", "cpu"])
def test_the_device_is_as_asked_or_refused_before_anything_is_set(device, gpu):
    torch.use_deterministic_algorithms(False)
    if device == "cuda" and not gpu:
        with pytest.raises(UserError, match=r"device=cuda .*: use device=cpu"):
            Hardware(device=device, threads=2).prepare()
        assert torch.get_num_threads() == 1
        assert not torch.are_deterministic_algorithms_enabled()
    else:
        expected = "cuda" if gpu and device != "cpu" else "cpu"
        assert Hardware(device=device).prepare() == torch.device(expected)


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
def test_workers_share_the_cores(use_cores, threads, workers, expected):
    use_cores(range(8))
    side_by_side, hardware = divide_cores(Hardware(device="cpu", threads=threads), workers)
    assert (side_by_side, hardware.threads) == expected
    assert hardware.device == "cpu"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, SPIN_COUNT),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "passive"}, None),
    ],
    ids=["nothing chosen", "count chosen", "policy chosen"],
)
def test_threads_spin_briefly_unless_the_environment_chooses(environment, expected, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # remembered, so that what is set here is undone
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
