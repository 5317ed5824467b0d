"""Laws of workloads that other packages bring: entry points of the group `foreseer.workloads`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foreseer.bench.harness import run_benchmark
from foreseer.bench.settings import BenchSettings
from foreseer.bench.tables import print_results
from foreseer.bench.target import Target
from foreseer.bench.workload import load_workload
from foreseer.errors import OptionError, PluginError
from foreseer.registry import parse_policy
from foreseer.workbench.tune import TuneSettings, tune

BRINGS = """
from toy_family import ToyFamily

class Waves(ToyFamily):
    name = "waves"

def waves(device, dtype):
    return Waves()

def needs_more(device, dtype):
    import package_that_nobody_has
"""
POINTS = """[foreseer.workloads]
waves = their_workloads:waves
needs_more = their_workloads:needs_more
gone = their_workloads:gone
"""
POLICY = "taylorseer:interval=2,warmup_steps=1,target=last_block"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package as pip would have left it there."""
    about = tmp_path / "site" / "waves-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: waves\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    (about.parent / "their_workloads.py").write_text(BRINGS)
    monkeypatch.delenv("FORESEER_NO_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(about.parent)


def test_a_workload_of_another_package_is_measured_as_ours_are(tmp_path: Path) -> None:
    """Law: named in settings it runs in every setting of the harness; what are no digits have no accuracy."""
    lanes = (parse_policy("none"), parse_policy(POLICY))
    for timed in ("pairs", "draws"):
        given = BenchSettings(workload="waves", samples=3, batch=2, repeats=1, lanes=lanes, timed=timed)
        found = run_benchmark(given, tmp_path / timed)
        assert found.finished
        assert np.isposinf(found.lane("none").values("psnr")).all()
        lane = found.lane(POLICY)
        assert lane.units[0].figures.keys() == {"psnr", "latent_error", "layout"}
        assert lane.frechet is None
        assert found.lane("full, 5 steps").block_rows == lane.block_rows == found.full(2).block_rows / 2
        print_results(found)


def test_a_workload_of_another_package_is_tuned_on() -> None:
    """Law: the tuner measures with the same workload."""
    found = tune(TuneSettings(policies=POLICY, target=Target("front"), workload="waves", samples=2, trials=2))
    assert [point.error for point in found.points] == ["", ""]


def test_a_workload_that_cannot_be_had_is_told() -> None:
    """Law: an unknown name is told with those that are there, a missing package and a broken one by their names."""
    with pytest.raises(OptionError, match="workload='sd3' is unknown; write one of dit, fashion, fashion_unlike, flux, wan, gone, needs_more, waves"):
        load_workload("sd3", device="cpu", dtype="float32")
    with pytest.raises(OptionError, match="'needs_more' cannot be loaded here: No module named 'package_that_nobody_has'"):
        load_workload("needs_more", device="cpu", dtype="float32")
    with pytest.raises(PluginError, match=r"workload 'gone' of waves 1\.0 cannot be imported"):
        load_workload("gone", device="cpu", dtype="float32")
