"""The laws of `--ray`, on a real local cluster of several nodes: whatever dies in the middle, results are those of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import ray
import ray_toys
import toy_tuning

from foreseer.bench import ray_hands
from foreseer.bench.compared import CompareSettings
from foreseer.bench.comparison import run_comparison
from foreseer.bench.harness import run_benchmark
from foreseer.bench.machine import machine
from foreseer.bench.ray_hands import RayHands
from foreseer.bench.ray_settings import RaySettings
from foreseer.bench.results import Results
from foreseer.bench.settings import BenchSettings
from foreseer.bench.source import Source
from foreseer.errors import OptionError
from foreseer.registry import parse_policy
from foreseer.workbench.recording import record
from foreseer.workbench.tune import tune

POLICIES = ("none", "taylorseer:interval=2,warmup_steps=1,max_order=1", "speca:threshold=0.5,warmup_steps=1")
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
ON_RAY = RaySettings(ray="")


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What workers are told by files, and note; they inherit the variable from the nodes."""
    folder = tmp_path_factory.mktemp("orders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ray_toys.ORDERS, str(folder))
        patch.setenv("FORESEER_NO_PLUGINS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # else what runs beside the tests starves them
        yield folder


@pytest.fixture(scope="module")
def cluster(orders: Path) -> Iterator[Any]:
    """A head without room, and two nodes with room for one worker each."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={**SMALL, "num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        found.add_node(**SMALL)
    ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(autouse=True)
def two_nodes(cluster: Any, orders: Path) -> Iterator[None]:
    """Each law finds two nodes and no orders."""
    yield
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(**SMALL)
    for order in orders.iterdir():
        order.unlink()


def settings(**changes: Any) -> BenchSettings:
    given: dict[str, Any] = {"workload": source(), "samples": 6, "batch": 2, "steps": 6, "repeats": 3, "lanes": tuple(map(parse_policy, POLICIES))}
    return BenchSettings(**{**given, **changes})


def source() -> Source:
    return Source(pipeline=f"{ray_toys.__file__}:build")


def die(orders: Path, times: int, indices: list[int], *, driven: bool = True) -> None:
    (orders / "die-1").write_text(json.dumps([times, indices, driven]))


def noted(orders: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (orders / "drawn").read_text().splitlines()]


def without_times(folder: Path) -> Any:
    content = json.loads((folder / "results.json").read_text())
    for lane in content["lanes"]:
        for unit in lane["units"]:
            del unit["where"]
            for name in ("seconds", "full_seconds", "clock_seconds"):
                unit[name] = len(unit[name])
        for report in lane["reports"].values():
            for step in report["steps"]:
                del step["seconds"]
    return content


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, cluster: Any) -> Callable[[str], Path]:
    """Results of one process, by how they are timed."""
    folder = tmp_path_factory.mktemp("alone")
    for timed in ("pairs", "draws"):
        run_benchmark(settings(timed=timed), folder / timed)
    return lambda timed: folder / timed


def content(path: Path) -> tuple[dict[str, bytes], Any]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}, file.metadata()  # noqa: SIM118  (it is no mapping)


def whole(folder: Path) -> list[tuple[str, int]]:
    return [(lane.name, unit.number) for lane in Results.load(folder).lanes for unit in lane.units]


def test_results_are_those_of_one_process(alone: Callable[[str], Path], tmp_path: Path) -> None:
    """Law: figures, decisions, accounts and samples are the same to the bit; each unit says where it was measured, and progress is told once."""
    told: list[tuple[str, int, int]] = []
    run_benchmark(settings(), tmp_path, ray=ON_RAY, tell=lambda *what: told.append(what))
    assert without_times(tmp_path) == without_times(alone("pairs"))
    for path in sorted((alone("pairs") / "samples").iterdir()):
        assert path.read_bytes() == (tmp_path / "samples" / path.name).read_bytes()
    found = Results.load(tmp_path)
    assert len({unit.where["node"] for lane in found.lanes for unit in lane.units}) == 2
    assert all(unit.where["processor"] == found.machine["processor"] for lane in found.lanes for unit in lane.units)
    assert len(told) == len({what for what, _, _ in told}) == 1 + len(whole(tmp_path))


def test_a_worker_that_is_killed_loses_nothing_and_counts_nothing_twice(orders: Path, alone: Callable[[str], Path], tmp_path: Path) -> None:
    """Law: what it had under way begins again, on another one. Where draws are timed, each process that draws a lane on a batch has drawn full
    computation of that batch itself.
    """
    die(orders, 1, [2, 3])
    run_benchmark(settings(timed="draws"), tmp_path, ray=ON_RAY)
    assert json.loads((orders / "die-1").read_text())[0] == 0
    assert without_times(tmp_path) == without_times(alone("draws"))
    drawn = noted(orders)
    full = {(one["process"], *one["indices"]) for one in drawn if not one["driven"] and one["steps"] == 6}
    assert {(one["process"], *one["indices"]) for one in drawn if one["driven"] and len(one["indices"]) > 1} <= full


def test_a_lane_that_kills_its_workers_is_a_row_that_says_so(orders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: after so many workers the lane is held to be the cause; what it came to on earlier batches stays, the other lanes are as ever."""
    monkeypatch.setattr(ray_hands, "DEATHS", 2)
    die(orders, 2, [4, 5])
    found = run_benchmark(settings(lanes=tuple(map(parse_policy, POLICIES[1:2])), repeats=0), tmp_path, ray=ON_RAY)
    lane = found.lane(POLICIES[1])
    assert "lost its worker 2 times" in lane.error
    assert [unit.number for unit in lane.units] == [0, 1]
    assert Results.load(tmp_path).lane("full").indices == [*range(6)]


def test_a_node_that_is_lost_and_one_that_joins(cluster: Any, alone: Callable[[str], Path], tmp_path: Path) -> None:
    """Law: a node taken away in the middle changes nothing, and one that joins gets work."""
    before = {node["NodeID"][:8] for node in ray.nodes()}

    def tell(what: str, done: int, total: int) -> None:
        if done == 3 and len(cluster.worker_nodes) == 2:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            cluster.add_node(**SMALL)

    run_benchmark(settings(samples=6), tmp_path, ray=ON_RAY, tell=tell)
    assert without_times(tmp_path) == without_times(alone("pairs"))
    assert {node["NodeID"][:8] for node in ray.nodes()} - before


TOML = """
pipeline = {pipeline!r}
samples = 6
batch = 2
steps = 6
repeats = 3
lanes = [{lanes}]
"""


def test_a_driver_that_is_killed_and_started_again(cluster: Any, orders: Path, alone: Callable[[str], Path], tmp_path: Path) -> None:
    """Law: killed without warning and started again, the same command keeps each unit that was finished, and ends where an undisturbed one does."""
    file, out = tmp_path / "sweep.toml", tmp_path / "out"
    file.write_text(TOML.format(pipeline=source().pipeline, lanes=", ".join(f"{{policy = {policy!r}}}" for policy in POLICIES)))
    command = [sys.executable, "-m", "foreseer", "bench", "run", str(file), "--out", str(out), "--ray", cluster.address]
    (orders / "slow").write_text("0.02")
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / "results.json").exists() or len(whole(out)) < 3:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = {(lane.name, unit.number): unit for lane in Results.load(out).lanes for unit in lane.units}
    (orders / "slow").unlink()
    second = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert second.returncode == 0, second.stderr
    found = Results.load(out)
    assert {key: unit for lane in found.lanes for unit in lane.units if (key := (lane.name, unit.number)) in kept} == kept
    assert max(Counter(whole(out)).values()) == 1
    ours, theirs = without_times(out), without_times(alone("pairs"))
    assert {**ours, "settings": 0, "about": 0} == {**theirs, "settings": 0, "about": 0}


def test_times_of_other_hardware_are_not_mixed_in(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a worker of a node with other hardware is refused in words and gets no work; where no other is left, the run says why."""
    (tmp_path / "sitecustomize.py").write_text("import os\nos.cpu_count = lambda: 96\n")
    with pytest.raises(OptionError, match=r"no node of the cluster has what a worker takes, 1 CPU, 1 GPU; write other --ray-cpus"):
        RayHands(attrs.evolve(source(), device="cuda"), ON_RAY, threads=1)
    with pytest.raises(OptionError, match=r"device='cuda:1' names a GPU.*write --device cuda"):
        RayHands(attrs.evolve(source(), device="cuda:1"), ON_RAY)
    other = cluster.add_node(**SMALL, env_vars={"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}, resources={"other": 1})
    try:
        said: list[str] = []
        like = machine("cpu")
        with RayHands(source(), ON_RAY, threads=1, like=like, say=said.append) as hands:
            hands.open(lambda workload: workload)
            while not (refused := [what for what in said if "gets no work" in what]):
                hands._hire()
                hands._wait()
        assert "gets no work: processor was" in refused[0]
        assert "96 cores" in refused[0]
        kept = attrs.evolve(ON_RAY, ray_resources={"other": 0.5})
        with pytest.raises(OptionError, match=r"no worker is left: .*96 cores.*--ray-resources"):
            with RayHands(source(), kept, threads=1, like=like, say=said.append) as hands:
                hands.look(lambda workload: workload.name)
    finally:
        cluster.remove_node(other)


def test_a_search_finds_what_one_process_finds(orders: Path, tmp_path: Path) -> None:
    """Law: trials, choice and preset depend on how many trials are asked for at once, and not on who draws or dies meanwhile; nothing is drawn again."""
    asked = toy_tuning.settings(workload=source(), trials=9, at_once=3, samples=4)
    die(orders, 1, [2, 3])
    found = tune(attrs.evolve(asked, study=tmp_path / "study.db"), ray=ON_RAY)
    assert json.loads((orders / "die-1").read_text())[0] == 0
    (orders / "drawn").unlink()
    here = tune(asked)
    assert toy_tuning.without_times(found) == toy_tuning.without_times(here)
    assert found.preset == here.preset
    (orders / "drawn").unlink()
    assert tune(attrs.evolve(asked, study=tmp_path / "study.db", at_once=None)).preset == here.preset
    assert not (orders / "drawn").exists()


def test_a_recording_is_that_of_one_process(orders: Path, tmp_path: Path) -> None:
    """Law: inner products and sensitivities are the same to the bit, though a worker dies in the middle; what is finished is not drawn again."""
    asked: dict[str, Any] = {"samples": 6, "batch": 2, "steps": 6}
    here = record(source(), tmp_path / "here.safetensors", **asked)
    die(orders, 1, [2, 3])
    there = record(source(), tmp_path / "there.safetensors", ray=ON_RAY, **asked)
    assert json.loads((orders / "die-1").read_text())[0] == 0
    assert content(here.path) == content(there.path)
    assert there.evaluations == here.evaluations
    with pytest.raises(OptionError, match=r"features='float16' are written where they are computed"):
        record(source(), tmp_path / "no.safetensors", features="float16", ray=ON_RAY, **asked)


def test_a_comparison_is_that_of_one_process(tmp_path: Path) -> None:
    """Law: what a comparison writes is the same but for times; observers and headroom, which look into runs of this process, are refused in words."""
    asked: dict[str, Any] = {"workload": source(), "policies": POLICIES[1:], "samples": 4, "batch": 2, "steps": 6}
    here = run_comparison(CompareSettings(**asked, out=tmp_path / "here"), show=False)
    there = run_comparison(CompareSettings(**asked, out=tmp_path / "there"), show=False, ray=ON_RAY)
    assert without_times(tmp_path / "there" / "measured") == without_times(tmp_path / "here" / "measured")
    assert [row.lane.name for row in there.rows] == [row.lane.name for row in here.rows]
    assert {name: report.computed.tolist() for name, report in there.reports.items()} == {
        name: report.computed.tolist() for name, report in here.reports.items()
    }
    with pytest.raises(OptionError, match="observers looks into runs of this process"):
        run_comparison(CompareSettings(**asked, observers=("ledger",), out=tmp_path / "no"), show=False, ray=ON_RAY)
