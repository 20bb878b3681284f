"""Output that nobody takes."""

import subprocess
import sys

import pytest

COMMAND = """
import sys
from lenet_study.__main__ import main
from lenet_study.errors import JobError

def chat():
    for number in range(100_000):
        print(number)
    print("a warning", file=sys.stderr)
    if sys.argv[1] == "fail":
        raise JobError("It failed")

sys.exit(main(["chat"], {"chat": chat}))
"""


@pytest.mark.parametrize(
    "sink", ["| head -1", ">/dev/full", ">/dev/full 2>&1", "2>&1 | head -1", ">&-", "2>&-"]
)
@pytest.mark.parametrize(("ending", "code"), [("succeed", 0), ("fail", 1)])
def test_output_that_cannot_be_written_is_dropped_and_the_exit_code_is_that_of_the_work(sink, ending, code):
    command = f'"$0" -c "$1" {ending} {sink}; exit ${{PIPESTATUS[0]}}'
    result = subprocess.run(["bash", "-c", command, sys.executable, COMMAND], capture_output=True, text=True)
    assert result.returncode == code
    assert "Errno" not in result.stderr
    if sink in ("| head -1", ">/dev/full"):
        assert result.stderr == "a warning\n" + ("Error: It failed.\n" if code else "")
