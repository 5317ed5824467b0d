"""What the engine itself costs. Benchmarks, not tests: run them with `make bench`; nothing here fails because a machine is slow.

Plain `pytest` calls each body once, without timing, so that they cannot rot.
"""

import pytest
import torch
from benchmarks.kept import KINDS, asked, built, fifty

import foreseer


@pytest.mark.parametrize(("kind", "policy"), KINDS)
def test_fifty_evaluations_with_two_observers(benchmark, kind, policy):
    """Divide by 50 for one evaluation. The goals are 25 us for a schedule and 60 us for a gate; the session is built beforehand."""
    benchmark.pedantic(fifty, setup=lambda: ((built(policy),), {}), rounds=200)


@pytest.mark.parametrize("metric", ["relative_l1", "relative_l2", "elementwise_l1", "cosine"])
def test_what_a_gate_asks_of_torch(benchmark, metric):
    """The floor of a gate."""
    benchmark(asked, metric)


@pytest.mark.parametrize("policy", ["taylorseer", "speca"])
def test_building_a_session(benchmark, policy):
    benchmark(built, policy)


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
