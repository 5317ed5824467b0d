"""What the engine itself costs. Benchmarks, not tests: run them with `make bench`; nothing here fails because a machine is slow.

Plain `pytest` calls each body once, without timing, so that they cannot rot.
"""

import pytest
import torch

import foreseer
from foreseer import Evidence, Pass, Run, Site, hookimpl
from foreseer.metrics import METRICS
from foreseer.registry import parse_policy

DEPTH, ROWS, STEPS = 12, 2, 50


class Null:
    """A host that does nothing, so that what remains is the engine."""

    depth = DEPTH
    sites = tuple(Site(b) for b in range(DEPTH))

    def __init__(self):
        self._out = torch.ones(ROWS, 4)

    def rows(self, inputs):
        return ROWS

    def forward(self, inputs, *, rows=None, substitute, probe=None, judge=None, record=()):
        if probe is not None:
            judge(Evidence(Site(probe.block), self._out, self._out))
        return Pass(self._out, dict.fromkeys(record, self._out), 0)

    def merge(self, output, rows, part):
        return output


class Watch:
    """An observer that counts."""

    def __init__(self):
        self.steps = 0

    @hookimpl
    def on_step(self, step, outcome):
        self.steps += 1


SCHEDULES = ("none", "taylorseer:target=last_block", "taylorseer:target=last_block,max_order=1", "agreement:target=last_block")
GATES = ("cg_taylor", "speca:target=last_block", "speca:target=last_block,metric=cosine")
KINDS = [*(("schedule", policy) for policy in SCHEDULES), *(("gate", policy) for policy in GATES)]


def fifty(session):
    """A run's evaluations."""
    for _ in range(STEPS):
        session.evaluate(None)


@pytest.mark.parametrize(("kind", "policy"), KINDS)
def test_fifty_evaluations_with_two_observers(benchmark, kind, policy):
    """Divide by 50 for one evaluation. The goals are 25 us for a schedule and 60 us for a gate; the session is built beforehand."""
    spec, host = parse_policy(policy), Null()
    run = Run(DEPTH, ROWS, (0, 1), STEPS, tuple(map(float, range(STEPS))), None, host.sites)
    benchmark.pedantic(fifty, setup=lambda: ((foreseer.Session(host, spec, run, observers=(Watch(), Watch())),), {}), rounds=200)


@pytest.mark.parametrize("metric", ["relative_l1", "relative_l2", "elementwise_l1", "cosine"])
def test_what_a_gate_asks_of_torch(benchmark, metric):
    """The floor of a gate: the sums of its metric on the same tensors, the comparison, and reading both."""
    found, made = torch.ones(ROWS, 4), METRICS[metric]

    def asked():
        error = made(found, found, groups=(0, 1))
        return error.tolist(), torch.lt(error, 0.1).tolist()

    benchmark(asked)


def test_building_a_session(benchmark):
    spec, host = foreseer.policy("speca"), Null()
    run = Run(DEPTH, ROWS, (0, 1), STEPS, None, None, host.sites)
    benchmark(lambda: foreseer.Session(host, spec, run))


@pytest.mark.parametrize("policy", ["bare", "none"])
def test_a_full_step_of_the_bundled_model(benchmark, policy):
    """Eight samples with guidance: the median of `none` over that of `bare` is what attaching costs."""
    from foreseer.zoo import load_dit

    model = load_dit()
    inputs = (torch.randn(16, 1, 8, 8), torch.full((16,), 500))
    labels = torch.arange(16) % 10
    with torch.no_grad():
        if policy == "bare":
            benchmark(lambda: model(*inputs, class_labels=labels))
        else:
            with foreseer.attach(model, "none") as attached, attached.run():
                benchmark(lambda: model(*inputs, class_labels=labels))
