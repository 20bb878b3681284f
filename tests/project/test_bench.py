"""`make bench` works, on few images; what it measures is asserted nowhere."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from bench import house
from bench.costs import FIRST_BATCH, FIRST_BATCH_SEEN
from bench.neighbours import SETTINGS, busy_processes
from bench.processes import LIMITED_SPINNING, call_in_process, environment_of

ROOT = Path(__file__).parents[2]


def measure(output: Path, *options: str) -> tuple[dict, str]:
    """Run `make bench` on the baseline; returns its tables by title, and what it printed."""
    small = ["--variants", "baseline", "--images", "320", "--rounds", "1", "--seconds", "0.05"]
    result = subprocess.run(
        [sys.executable, "-m", "bench", *small, *options, "--output", str(output)],
        cwd=ROOT,
        env=untraced({**os.environ, "PYTHONPATH": "src"}),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(output.read_text()), result.stdout


def untraced(environment: dict[str, str] | None = None) -> dict[str, str]:
    """The environment without what makes coverage follow a process: a bench is no test of what it calls."""
    return {
        name: value
        for name, value in (environment or environment_of()).items()
        if not name.startswith("COVERAGE")
    }


@pytest.mark.realdata
def test_the_bench_measures_and_writes_its_tables(tmp_path):
    output = tmp_path / "results.json"
    output.write_text('{"kept": "from before"}')
    written, printed = measure(output, "--runs", "1,30", "--parts", "speed,side,store")
    assert written.pop("kept") == "from before"
    speed, side, store = (part["table"] for part in written.values())
    assert speed[0]["variant"] == side[0]["variant"] == "baseline"
    assert min(speed[0][f"{name} s"] for name in ("ours", "ours, one thread", "report", "limit")) > 0
    assert min(side[0][f"{name} s"] for name in ("ours", "report")) > 0
    assert [row["runs"] for row in store] == [1, 30]
    assert all(part["machine"]["torch"] for part in written.values())
    assert str(output) in printed


@pytest.mark.realdata
def test_steps_are_measured_alone_in_a_training_and_beside_busy_neighbours(tmp_path):
    written, _ = measure(tmp_path / "results.json", "--busy", "0,1", "--parts", "faults,neighbours")
    faults, neighbours = (part["table"] for part in written.values())
    assert min(faults[0][f"{name}, ms"] for name in ("loop", "loop, memory kept")) > 0
    assert min(faults[0][name] for name in ("loop", "loop, memory kept", "training")) >= 0
    assert [row["threads"] for row in neighbours] == list(SETTINGS)
    for row in neighbours:
        assert min(row[f"{count} busy: {figure} ms"] for count in (0, 1) for figure in ("mean", "median")) > 0


@pytest.mark.realdata
def test_what_a_checkpoint_costs_is_measured(tmp_path):
    written, _ = measure(tmp_path / "results.json", "--parts", "checkpoints")
    (row,) = written["a checkpoint after each epoch"]["table"]
    assert min(row["epoch s"], row["checkpoint ms"], row["checkpoint MiB"], row["of the epoch %"]) > 0


def test_every_change_of_a_step_can_be_computed():
    script = (
        "from bench.steps import CHANGES, ready_step\n"
        "for change in CHANGES:\n"
        "    if change != 'torch.compile':  # takes half a minute\n"
        "        assert ready_step('v4', change)().shape == (32, 10)"
    )
    subprocess.run([sys.executable, "-c", script], env=untraced(), check=True)


def test_how_threads_wait_is_set_for_one_measurement_alone(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & environment_of().keys()
    assert call_in_process(os.getenv, "GOMP_SPINCOUNT", environment=LIMITED_SPINNING) == "10000"
    assert call_in_process(os.getenv, "GOMP_SPINCOUNT") is None


def test_busy_processes_compute_and_end_with_their_context():
    with busy_processes(2) as ids:
        processes = [psutil.Process(number) for number in ids]
        while min(sum(process.cpu_times()[:2]) for process in processes) < 0.1:
            time.sleep(0.05)
    assert len(processes) == 2
    assert not any(process.is_running() for process in processes)


def test_busy_processes_end_when_a_measurement_fails():
    with pytest.raises(OSError, match="measurement"), busy_processes(1) as ids:
        raise OSError("a measurement failed")
    assert not psutil.pid_exists(ids[0])


def test_busy_processes_end_with_a_bench_that_is_killed():
    script = (
        "import time\nfrom bench.neighbours import busy_processes\n"
        "with busy_processes(1) as (number,):\n    print(number, flush=True)\n    time.sleep(600)"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=untraced(), stdout=subprocess.PIPE, text=True) as bench:
        busy = psutil.Process(int(bench.stdout.readline()))
        while "while True" not in "".join(busy.cmdline()) or sum(busy.cpu_times()[:2]) < 0.1:
            time.sleep(0.05)  # it has asked the kernel to end with its parent
        bench.kill()
    with suppress(psutil.NoSuchProcess):
        assert busy.wait(timeout=60) is None


@pytest.mark.realdata
def test_the_time_to_the_first_batch_is_told_and_the_training_ends_there(tmp_path):
    command = [sys.executable, "-c", FIRST_BATCH, "baseline"]
    result = subprocess.run(command, cwd=tmp_path, env=untraced(), capture_output=True, text=True)
    assert result.returncode == FIRST_BATCH_SEEN, result.stderr
    assert float(result.stdout.rpartition("first batch after")[2].split()[0]) > 0


HOUSE = {
    "src/lenet_study/workflows/__init__.py": '"""Whole pieces of work."""\n',
    "src/lenet_study/workflows/train.py": '''
"""Trains."""
from lenet_study.training import loop  # the only comment
from lenet_study.errors import UserError

def train(run, metric):
    """Do it."""
    run.log({"train/loss": loop.fit()})
    run.log({f"kfold/{metric}_mean": 1})
''',
    "src/lenet_study/training/loop.py": "def fit(auxiliary_weight=0.3):\n    return auxiliary_weight\n",
    "src/lenet_study/errors.py": "class UserError(Exception):\n    pass\n",
    "src/lenet_study/unused.py": "def _long():\n" + "    pass\n" * 40,
    "src/lenet_study/tracking/schema.py": 'LOSS = "train/loss"\n',
    "tests/test_loop.py": "def test(monkeypatch, thing):\n    monkeypatch.setattr(thing, '_a', thing._b)\n",
    "README.md": "# Title\n\nIt reaches 92.49 %.\n",
    "MLproject": "# Made by `make mlproject`.\n# auxiliary_weight\n",
    "docker/MLproject": "parameters: {auxiliary_weight}\ncommand: --auxiliary-weight\n",
}


def test_the_house_is_measured(tmp_path):
    for name, text in HOUSE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    rows = [line.strip("| ").split(" | ") for line in house.table([house.Checkout(tmp_path)]).splitlines()]
    measured = {row[0]: row[-1] for row in rows[2:]}
    assert measured == {
        "lines to follow one training, opened (files)": "13 (3)",
        "edits by hand for a new training parameter": "4 lines, 2 files",
        "modules that write the tracker's keys as literals": "1",
        "median / 90 % function, lines": "4 / 63",
        "functions over 40 lines": "33 %",
        "public functions with docstring": "50 %",
        "comments per 100 lines": "1.9",
        "… in `tracking`": "0.0",
        "… in `training`": "0.0",
        "… in `workflows`": "12.5",
        "patches of names in tests (`setattr`)": "1",
        "private names in tests": "1",
        "first number in the README, line": "3",
        "lines of `src`": "56",
    }


def test_this_house_is_measured():
    result = subprocess.run(
        [sys.executable, "-m", "bench.house"],
        cwd=ROOT,
        env=untraced(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "| lines of `src` | " in result.stdout
