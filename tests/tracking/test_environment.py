"""What is recorded of a process, and what never is."""

import json

import pytest
import torch

from lenet_study.tracking import environment

KEY = "AKIA" + "ABCDEFGHIJKLMNOP"
SECRETS = [
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    f"key = {KEY}",
    "ghp_" + "a1" * 18,
    'password = "correct-horse"',
    "API_TOKEN=0123456789abcdef",
    "https://me:secret@host/x",
    "hf_" + "a" * 34,
]
SECRETS += [
    "password: hunter2hunter2",
    "db_password=hunter2hunter2",
    "aws_secret_access_key = wJalrXUtnFEMIK7MDENG",
    "SECRET_KEY = 'not so secret'",
    "API_KEY: 0123456789abcdef",
    "https://0123456789abcdef@host/x",
    "Authorization: Bearer abcdefghijklmnop",
    "serve --password hunter2secret",
]
HARMLESS = [
    "password = read_secret(path)",
    "def token(self) -> str:",
    "https://host/x@y",
    "secrets: Path = SECRETS",
]


@pytest.mark.parametrize("text", SECRETS)
def test_what_looks_like_a_secret_is_known(text):
    assert environment.SECRET.search(f"+before\n+{text}\n")


@pytest.mark.parametrize("text", HARMLESS)
def test_code_that_handles_secrets_is_none(text):
    assert not environment.SECRET.search(text)


def test_variables_are_taken_by_name_and_never_with_a_secret():
    values = {
        "OMP_NUM_THREADS": "2",
        "ATEN_CPU_CAPABILITY": "default",
        "TORCH_TOKEN": "0123456789abcdef",
        "MY_OMP_X": "1",
        "HOME": "/root",
    }
    recorded = environment.variables(values)
    assert recorded.keys() == {"OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY", "TORCH_TOKEN"}
    assert "0123456789abcdef" not in str(recorded)
    assert environment.variables_to_repeat({**recorded, "GOMP_SPINCOUNT": "1"}) == {
        "OMP_NUM_THREADS": "2",
        "ATEN_CPU_CAPABILITY": "default",
    }


def test_a_command_is_kept_as_typed_but_for_secrets():
    words = ["lenet-study", "train", "--data-dir", "a b", "--storage=postgresql://me:pw@host/x", f"--x={KEY}"]
    command = environment.command_line(words)
    assert command.startswith("lenet-study train --data-dir 'a b' --storage=postgresql://host/x ")
    assert KEY not in command


def test_the_facts_that_decide_bits_name_threads_libraries_and_instruction_set(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    facts = environment.environment()
    assert json.loads(json.dumps(facts)) == facts
    deciding = facts["deciding"]
    assert deciding["threads"] == str(torch.get_num_threads())
    assert "MKL-DNN" in deciding["torch's libraries"]
    assert torch.backends.cpu.get_cpu_capability() in deciding["processor"]
    assert deciding["torch"] == torch.__version__
    assert deciding["variable MKL_CBWR"] == "COMPATIBLE"
    assert not any("GOMP_SPINCOUNT" in name for name in deciding)
