"""`make bench` works, on few images; what it measures is asserted nowhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.costs import FIRST_BATCH, FIRST_BATCH_SEEN
from bench.growth import environment_of

ROOT = Path(__file__).parents[2]


@pytest.mark.realdata
def test_the_bench_measures_and_writes_its_tables(tmp_path):
    output = tmp_path / "results.json"
    output.write_text('{"kept": "from before"}')
    options = ["--variants", "baseline", "--images", "640", "--rounds", "1", "--runs", "1,30"]
    result = subprocess.run(
        [sys.executable, "-m", "bench", *options, "--parts", "speed,side,store", "--output", str(output)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    written = json.loads(output.read_text())
    assert written.pop("kept") == "from before"
    speed, side, store = (part["table"] for part in written.values())
    assert speed[0]["variant"] == side[0]["variant"] == "baseline"
    assert min(speed[0][f"{name} s"] for name in ("ours", "report", "limit")) > 0
    assert min(side[0][f"{name} s"] for name in ("ours", "report")) > 0
    assert [row["runs"] for row in store] == [1, 30]
    assert all(part["machine"]["torch"] for part in written.values())
    assert str(output) in result.stdout


@pytest.mark.realdata
def test_the_time_to_the_first_batch_is_told_and_the_training_ends_there(tmp_path):
    command = [sys.executable, "-c", FIRST_BATCH, "baseline"]
    result = subprocess.run(command, cwd=tmp_path, env=environment_of(), capture_output=True, text=True)
    assert result.returncode == FIRST_BATCH_SEEN, result.stderr
    assert float(result.stdout.rpartition("first batch after")[2].split()[0]) > 0
