"""How long planning takes: 16 samples of 50 steps, all numbers of computed steps at once. Run it with `make bench`.

A benchmark, not a test: nothing here fails because a machine is slow. The goal is 10 s for each of these.
"""

import numpy as np
import pytest

from foreseer.signature import Signature
from foreseer.types import Site
from foreseer.workbench.planner import plan
from foreseer.workbench.trace import Trace


@pytest.fixture(scope="module")
def trace(request):
    """Smooth random curves; a short run where nothing is timed."""
    samples, steps = (16, 50) if request.config.getoption("benchmark_enable") else (3, 9)
    random, time = np.random.default_rng(0), np.linspace(0, 1, steps)
    features = np.stack([np.sin(4 * time[:, None] ** 2 + 6 * random.random(64)) for _ in range(samples)])
    return Trace(
        signature=Signature(num_steps=steps),
        depth=1,
        labels=tuple(map(str, range(samples))),
        grams={("", Site(0)): np.einsum("sid,sjd->sij", features, features)},
        target=Site(0),
        sensitivity=np.ones((samples, steps)),
        measured=tuple(range(steps)),
        final_norm=np.ones(samples),
        final_size=64,
    )


@pytest.mark.parametrize("order", [0, 1, 2])
def test_all_budgets(benchmark, trace, order):
    benchmark.pedantic(lambda: plan(trace, predictor=f"taylor:max_order={order}"), rounds=1)


def test_every_sample_by_itself(benchmark, trace):
    each = range(trace.samples)
    benchmark.pedantic(lambda: [plan(trace, predictor="taylor:max_order=1", samples=[i]) for i in each], rounds=1)
