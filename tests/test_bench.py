"""`make bench` works, on few images; what it measures is asserted nowhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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
