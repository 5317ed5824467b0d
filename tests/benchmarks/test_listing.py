"""How long ``foreseer policies`` takes, as a whole process, with fifty packages beside foreseer's own. Run it with `make bench`.

A benchmark, not a test: nothing here fails because a machine is slow. The goal is a median below 0.5 s; what it is made of is Python's start, rich
and typer, and reading the metadata of all that is installed. torch is not in it, nor is any plugin: that listing imports none is a test.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fresh import fake_distributions


@pytest.mark.parametrize("count", [0, 50])
def test_listing_as_a_whole_process(benchmark, tmp_path, count):
    fake_distributions(tmp_path / "site", count)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [Path(sys.executable).with_name("foreseer"), "policies"]
    benchmark.pedantic(lambda: subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True), rounds=7, warmup_rounds=1)
