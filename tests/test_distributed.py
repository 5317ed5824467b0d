"""Processes that share a sample's tokens decide alike, and as one process would. Two real processes (gloo); and the law that makes it so."""

import os
import subprocess
import sys
import time
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from distributed.cases import CASES, OTHERS, PIPELINES, policy_of
from hypothesis import given, settings
from tiny import TINY

import foreseer
from foreseer import ContractError, Evidence, Plan, Probe, Site, UnsupportedModelError, Verdict
from foreseer.adapters.parallel import vote_for
from foreseer.metrics import METRICS, Metric, metric, relative_l1
from foreseer.trial import Trial
from foreseer.vote import Ballot, Electorate

diffusers = pytest.importorskip("diffusers", minversion="0.36")
WORKER = Path(__file__).parent / "distributed" / "worker.py"
PATIENCE = 300


def two_processes(folder, names):
    """Run cases in two processes; what each of them left, by case. Fails, and ends both, after PATIENCE seconds."""
    assert torch.distributed.is_available(), "torch was built without torch.distributed"
    assert torch.distributed.is_gloo_available(), "torch was built without gloo, which these tests need"
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    started, deadline = [], time.monotonic() + PATIENCE
    try:
        for rank in range(2):
            with (folder / f"{rank}.log").open("w") as log:
                command = [sys.executable, str(WORKER), str(rank), str(folder), *names]
                started.append(subprocess.Popen(command, env={**os.environ, **alone}, stdout=log, stderr=subprocess.STDOUT))
        codes = [process.wait(max(deadline - time.monotonic(), 0.1)) for process in started]
    except subprocess.TimeoutExpired:
        codes = ["still running"]
    finally:
        for process in started:
            process.kill()
            process.wait()
    if codes != [0, 0]:
        done = [name for name in names if (folder / f"{name}.0.pt").exists() and (folder / f"{name}.1.pt").exists()]
        logs = "\n".join((folder / f"{rank}.log").read_text()[-3000:] for rank in range(2))
        pytest.fail(f"exit codes {codes}; done: {done}\n{logs}")
    return {name: [torch.load(folder / f"{name}.{rank}.pt", weights_only=False) for rank in range(2)] for name in names}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """``case -> [what process 0 left, what process 1 left]``, of one pair of processes: most of their time goes into importing."""
    return two_processes(tmp_path_factory.mktemp("processes"), list(CASES)).__getitem__


def alone(case):
    """The same run in this process."""
    pipe = TINY[case.pipeline].build()
    with foreseer.attach(pipe, policy_of(case)) as attached:
        output = TINY[case.pipeline].call(pipe, steps=case.steps, batch=case.batch)
        return output, attached.reports


def assert_alike(first, second):
    """Both processes computed the same rows of the same steps, and measured the same errors, bit for bit."""
    assert first["reports"].keys() == second["reports"].keys() != set()
    for stream, report in first["reports"].items():
        other = second["reports"][stream]
        assert np.array_equal(report["computed"], other["computed"]), stream
        assert np.array_equal(report["error"], other["error"], equal_nan=True), stream
        assert report["warnings"] == other["warnings"]


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("name", PIPELINES)
def test_two_processes_decide_alike_and_as_one_does(name, both):
    """Row by row and step by step, and the output is that of one process."""
    first, second = both(name)
    assert_alike(first, second)
    output, reports = alone(CASES[name])
    assert distance(first["output"], output) < 1e-3
    assert torch.equal(first["output"], second["output"])
    assert first["reports"].keys() == reports.keys()
    judged = 0
    for stream, report in reports.items():
        got = first["reports"][stream]
        assert got["computed"].tolist() == report.computed.tolist(), stream
        np.testing.assert_allclose(got["error"], report.error, rtol=1e-2)
        judged += int(report.judged.sum())
        if report.judged.any():  # else there was nothing to decide
            assert 0 < report.computed[report.judged].sum() < report.computed[report.judged].size or len(reports) > 1
    for process in (first, second):
        assert process["votes"]["sum"] == judged  # one all-reduce a judged step, none in others
        assert process["votes"]["max"] <= 3 * len(reports)  # on the first computed step: how blocks are put together, the self-check, the row check
    if name.endswith("taylorseer"):
        assert judged == 0


def test_without_a_vote_the_processes_would_part(both):
    """One threshold between the errors on either half of the tokens: by its own tokens one process would skip the blocks in which the other waits."""
    first, second = both("flux_between")
    threshold = first["threshold"]
    assert threshold == second["threshold"]
    mine = [process["local"][0].item() < threshold for process in (first, second)]
    assert mine[0] != mine[1]
    assert_alike(first, second)  # and with the vote they went on together
    (report,) = first["reports"].values()
    assert report["error"][3, 0] not in [process["local"][0].item() for process in (first, second)]


def test_a_gate_that_has_never_heard_of_a_vote_cannot_make_a_run_hang(both):
    """Its verdicts are voted instead: a row is accepted where both accept, and the reported error is the larger."""
    first, second = both("flux_own_arithmetic")
    assert_alike(first, second)
    (report,) = first["reports"].values()
    judged = ~np.isnan(report["error"])
    assert (report["computed"][judged] == (report["error"][judged] >= report["thresholds"][3])).all()
    assert 0 < report["computed"][judged].sum() < judged.sum()
    assert first["votes"] == second["votes"]
    assert first["votes"]["sum"] == 0
    assert judged.any(1).sum() <= first["votes"]["max"] <= judged.any(1).sum() + 2


def test_parallelism_may_be_enabled_after_attaching(both):
    """It is looked for at each run's start, and what was found out about the model before is forgotten."""
    first, second = both("flux_late")
    assert_alike(first, second)
    assert distance(first["output"], first["alone"]) < 1e-3


@pytest.mark.parametrize("name", ["sound", "faulty_last_block", "sound_rows", "faulty_rows"])
def test_what_one_process_finds_out_about_a_model_holds_for_all(name, both):
    """A self-check or row check that fails on process 1 only takes the same branch on both. Their blocks wait for each other, so that a run that ends
    has taken it.
    """
    first, second = both(name)
    assert_alike(first, second)
    (report,) = first["reports"].values()
    assert first["separable"] == second["separable"] == (name != "faulty_rows")
    assert ("its output is forecast instead" in " ".join(report["warnings"])) == (name == "faulty_last_block")
    assert ("a rejection computes the whole batch" in " ".join(report["warnings"])) == (name == "faulty_rows")
    assert not report["computed"].all()


def test_a_block_is_put_together_from_its_parts_by_all_or_by_none(both):
    """Where process 1 finds that its block is not the sum of its parts, process 0 runs the block too."""
    first, second = both("faulty_assembly")
    assert_alike(first, second)
    assert first["assembled"] == second["assembled"] == [True, False, True]


def test_every_case_is_used():
    used = {"flux_late", "flux_between", "flux_own_arithmetic", "sound", "faulty_last_block", "sound_rows", "faulty_rows", "faulty_assembly"}
    assert set(OTHERS) == used


# The law: sums over parts of a row add up.


def by_vote(measure, shards, groups):
    """The error that each of several processes gets, one shard each."""
    handed: list[torch.Tensor] = []
    for computed, forecast in shards:  # first find out what each hands in, then answer
        measure(computed, forecast, groups=groups, vote=lambda sums: handed.append(sums) or sums)
    total = torch.stack(handed).sum(0)
    return [Evidence(Site(0), computed, forecast, lambda sums: total).error(measure, groups=groups) for computed, forecast in shards]


@st.composite
def sharded(draw):
    """``(R, tokens, channels)`` computed and forecast, where their tokens are cut, and groups."""
    rows, tokens, channels = draw(st.integers(1, 4)), draw(st.integers(2, 9)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    computed = torch.randn(rows, tokens, channels, generator=generator, dtype=torch.float64)
    forecast = computed + draw(st.floats(1e-3, 3.0)) * torch.randn(computed.shape, generator=generator, dtype=torch.float64)
    cuts = sorted(draw(st.sets(st.integers(1, tokens - 1), min_size=1, max_size=3)))
    groups = draw(st.none() | st.lists(st.integers(0, 2), min_size=rows, max_size=rows))
    return computed, forecast, cuts, groups


@given(name=st.sampled_from(sorted(METRICS)), case=sharded())
@settings(max_examples=150)
def test_sums_over_shards_give_the_metric_of_the_whole(name, case):
    """However the tokens are cut, in unequal parts too, adding up the parts' sums gives every process the error of the whole."""
    computed, forecast, cuts, groups = case
    shards = list(zip(computed.tensor_split(cuts, 1), forecast.tensor_split(cuts, 1), strict=True))
    whole = metric(name)(computed, forecast, groups=groups)
    for error in by_vote(metric(name), shards, groups):
        np.testing.assert_allclose(error, whole, rtol=1e-5, atol=1e-6)


@given(name=st.sampled_from(sorted(METRICS)), case=sharded(), poison=st.sampled_from([float("nan"), float("inf")]))
@settings(max_examples=60)
def test_a_shard_that_is_not_finite_spoils_the_row_for_all(name, case, poison):
    """What one process sees that cannot be judged is rejected by all, and only there."""
    computed, forecast, cuts, _ = case
    forecast = forecast.clone()
    forecast[-1, -1, -1] = poison
    shards = list(zip(computed.tensor_split(cuts, 1), forecast.tensor_split(cuts, 1), strict=True))
    for error in by_vote(metric(name), shards, None):
        assert error.isfinite().tolist() == [True] * (len(computed) - 1) + [False]


def test_a_metric_that_does_not_add_up_is_refused_under_a_vote_only():
    """A maximum over a shard says nothing about the whole; better an error than another decision on every process."""
    largest = Metric("largest", lambda c, f: ((c - f).flatten(1).abs().amax(1),), lambda most: most, additive=False)
    computed, forecast = torch.zeros(2, 3), torch.ones(2, 3)
    assert largest(computed, forecast).tolist() == [1.0, 1.0]
    with pytest.raises(ContractError, match=r"'largest' does not add up .* cannot vote"):
        Evidence(Site(0), computed, forecast, lambda sums: sums).error(largest)


# The pieces, without processes.


class Peer:
    """A vote with one other process, which hands in `other`."""

    processes = 2

    def __init__(self, other):
        self.other, self.calls = other, []

    def sum(self, values):
        self.calls.append("sum")
        return values + self.other

    def max(self, values):
        self.calls.append("max")
        return torch.maximum(values, self.other)


def judge(verify, vote, rows=2):
    """A trial's judgement on evidence in which each row is off by its number; returns the trial."""
    trial = Trial(Plan((Site(0),), Probe(0)), [False] * rows, Electorate(range(rows), vote=vote), {}, verify)
    trial.judge(Evidence(Site(0), torch.ones(rows, 4), torch.ones(rows, 4) + torch.arange(rows)[:, None]))
    return trial


def test_sums_are_voted_once_and_the_verdict_is_left_alone():
    """Row 0: 0 here and 8 there, of 4 here and 4 there; row 1: 4 and 0."""
    vote = Peer(torch.tensor([[8.0, 0.0], [4.0, 4.0]]))

    def verify(evidence):
        error = evidence.error(relative_l1)
        return Verdict(error, error < 0.75, 0.75)

    trial = judge(verify, vote)
    assert trial.error == (1.0, 0.5)
    assert trial.rejected == [True, False]
    assert vote.calls == ["sum"]


def test_a_verdict_that_was_made_by_hand_is_voted_itself():
    """The other process is stricter on row 1 and has the larger error there."""
    vote = Peer(torch.tensor([[0.25, 3.0], [0.0, 1.0]]))
    trial = judge(lambda evidence: Verdict(torch.tensor([0.5, 0.1]), torch.tensor([True, True]), 1.0), vote)
    assert trial.error == (0.5, 3.0)
    assert trial.rejected == [False, True]
    assert vote.calls == ["max"]


def test_a_gate_that_abstains_still_votes():
    """The others may have a verdict, and would wait."""
    vote = Peer(torch.tensor([[0.1, 0.1], [0.0, 0.0]]))
    assert judge(lambda evidence: None, vote).rejected == [True, True]
    assert vote.calls == ["max"]


def test_an_error_that_is_not_finite_here_is_infinite_everywhere():
    """Not NaN: what the largest of NaN and a number is depends on the library that is asked."""
    ballot = Ballot(Peer(torch.tensor([[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]])))
    error, accept = ballot.settle(torch.tensor([float("nan"), float("inf"), 0.1]), torch.tensor([True, True, True]))
    assert error.tolist() == [float("inf"), float("inf"), 0.5]
    assert accept.tolist() == [1.0, 1.0, 1.0]


def test_nobody_votes_where_nobody_shares(tiny_dit):
    assert vote_for(tiny_dit, "auto") is None
    assert vote_for(tiny_dit, None) is None


def test_parallelism_of_an_unknown_make_is_an_error(tiny_dit, monkeypatch):
    """Better than a run that hangs."""
    config = type("Config", (), {"context_parallel_config": object()})()
    monkeypatch.setattr(tiny_dit, "_parallel_config", config, raising=False)
    with pytest.raises(UnsupportedModelError, match=r"its process group was not found; give attach\(..., process_group=...\)"):
        foreseer.attach(tiny_dit, "cg_taylor")
    foreseer.attach(tiny_dit, "cg_taylor", process_group=None).detach()


@pytest.mark.parametrize("group", ["everything", 2])
def test_what_is_no_process_group_is_refused(group, tiny_dit):
    with pytest.raises(ValueError, match=r"write 'auto', None, or a torch\.distributed process group"):
        foreseer.attach(tiny_dit, "cg_taylor", process_group=group)


def test_importing_foreseer_imports_nothing_of_torch_distributed():
    """Beyond what torch imports by itself."""
    code = (
        "import sys, torch\nbefore = set(sys.modules)\nimport foreseer, foreseer.metrics, foreseer.policies\nforeseer.attach\n"
        "print([name for name in set(sys.modules) - before if name.startswith('torch.distributed')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
