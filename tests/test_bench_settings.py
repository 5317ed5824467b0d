"""The laws of a benchmark's settings: every mistake is told before anything is loaded, with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from foreseer.bench.peers import PeerSpec
from foreseer.bench.settings import BenchSettings, read_settings
from foreseer.errors import OptionError, PluginError
from foreseer.registry import policy

SHIPPED = sorted((Path(__file__).parent.parent / "docs" / "benchmarks").glob("*.toml"))


def read(text: str, folder: Path) -> BenchSettings:
    path = folder / "settings.toml"
    path.write_text(text)
    return read_settings(path)


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    """Law: lanes are the product of the grid's lists, in order, and what is asked for twice is there once."""
    text = "[[lanes]]\npolicy = 'taylorseer:max_order=1'\ngrid = { interval = [3, 4], target = ['modules', 'last_block'] }\n"
    found = read("workload = 'dit'\nbatch = [1, 4]\n" + text + text, tmp_path)
    assert [str(lane) for lane in found.lanes] == [
        f"taylorseer:max_order=1,interval={interval},target={target}" for interval in (3, 4) for target in ("modules", "last_block")
    ]
    assert found.batch == (1, 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("samples = 4", "workload is missing"),
        ("workload = 'dit'\nsample = 4", "'sample' is no key of the settings; did you mean 'samples'"),
        ("workload = 'dit'\nsamples = 0", "samples=0 is out of range; write a whole number >= 1"),
        ("workload = 'dit'\nsteps = 1001", "steps=1001 is out of range; write a whole number from 1 to 1000"),
        ("workload = 'dit'\nbatch = []", r"batch=\[\] is out of range"),
        ("workload = 'dit'\nbatch = [2, 2]", r"batch=\[2, 2\] is out of range"),
        ("workload = 'dit'\nguidance = 'high'", "guidance='high' is out of range; write a number"),
        ("workload = 'dit'\ndtype = 'int8'", "dtype='int8' is unknown; write one of float32"),
        ("workload = 'dit'\ndtype = ['float32']", r"dtype=\['float32'\] is unknown"),
        ("workload = 'dit'\nabout = 5", "about=5 is no text; write about = '5'"),
        ("workload = 'dit'\ntogether = 'sorted'", "together='sorted' is unknown; write 'as drawn' or 'mixed'"),
        ("workload = 'dit'\ndevice = 'abacus'", "device='abacus' is unknown"),
        ("workload = 'dit'\nlanes = 3", r"lanes=3 is not a list of tables; write \[\[lanes\]\]"),
        ("workload = 'dit'\n[[lanes]]\ngrid = {}", "names no policy"),
        ("workload = 'dit'\n[[lanes]]\npolicy = 'none'\ngird = {}", "'gird' is no key of a lane; did you mean 'grid'"),
        ("workload = 'dit'\n[[lanes]]\npolicy = 'none'\ngrid = { a = 3 }", "is not a table of lists"),
        ("workload = 'dit'\n[[lanes]]\npolicy = 'speca'\ngrid = { treshold = [1] }", "did you mean 'threshold'"),
        ("workload = 'dit'\n[[peers]]\npeer = 'dbcahe'", "peer='dbcahe' is unknown; did you mean 'dbcache'"),
        ("workload = 'dit'\n[[peers]]\npeer = 'dbcache'\noptions = { treshold = 1 }", "did you mean 'threshold'"),
        ("workload = 'dit'\n[[peers]]\npeer = 'dbcache'\noptions = { threshold = -1 }", "threshold=-1 is out of range"),
        ("workload = 'dit'\n[[published]]\nfid = 3", "no method or no source"),
        ("workload = ", "is not TOML"),
    ],
)
def test_every_mistake_is_told(text: str, says: str, tmp_path: Path) -> None:
    """Law: errors name the key, the value and what to write; the file is named too."""
    with pytest.raises(OptionError, match=says) as caught:
        read(text, tmp_path)
    assert "settings.toml" in str(caught.value)


def test_a_policy_that_is_not_installed_is_told(tmp_path: Path) -> None:
    """Law: policies are resolved when the file is read."""
    with pytest.raises(PluginError, match=r"settings\.toml: .*did you mean 'speca'"):
        read("workload = 'dit'\n[[lanes]]\npolicy = 'spca'", tmp_path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """Law: as above."""
    with pytest.raises(OptionError, match="cannot be read"):
        read_settings(tmp_path / "none.toml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_settings_can_be_read(example_plugins: object, path: Path) -> None:
    """Law: what ships is right, says what it is about, and has the papers' numbers with their sources."""
    found = read_settings(path)
    assert found.about
    assert found.lanes
    assert found.workload.name in ("dit", "fashion", "fashion_unlike", "flux", "wan")
    assert found.peers or found.published or found.solvers


def test_what_a_plans_file_says_is_among_the_settings(tmp_path: Path) -> None:
    """Law: results are gone on with under the same plan, and not under another one in a file of that name."""
    text = "workload = 'dit'\nsolvers = ['unipc:timesteps={0}']\n[[lanes]]\npolicy = 'planned:schedule={0}'"
    plans, there = Path(__file__).parent.parent / "docs" / "benchmarks" / "plans", tmp_path / "plan.json"
    told = []
    for name in ("grid_dit.json", "grid_flux.json", "grid_dit.json"):
        there.write_text((plans / name).read_text())
        told.append(read(text.format(there), tmp_path).to_dict())
    assert told[0] == told[2] != told[1]
    assert list(told[0]["plans"]) == [str(there)]


@pytest.mark.usefixtures("example_plugins")
def test_a_policy_and_a_peer_of_one_name_are_refused() -> None:
    """Law: no line of a report is of two lanes."""
    with pytest.raises(OptionError, match="share a line"):
        BenchSettings(workload="dit", lanes=(policy("first_block_cache:threshold=0.1"),), peers=(PeerSpec("first_block_cache", {"threshold": 0.1}),))
