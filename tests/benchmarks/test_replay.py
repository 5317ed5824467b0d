"""What replaying costs. Benchmarks, not tests: run them with `make bench`; nothing here fails because a machine is slow."""

from recorded import smooth

from foreseer import Site
from foreseer.workbench import Replay

PREDICTORS = [f"taylor:max_order={order},warmup_steps={warmup}" for order in range(5) for warmup in (1, 2)]
SCHEDULES = [f"taylorseer:interval={interval},warmup_steps={warmup}" for interval in range(2, 12) for warmup in range(1, 11)]


def test_a_thousand_pairs_on_sixteen_samples_of_fifty_steps(benchmark):
    """Everything is new each time: steps, weights and errors."""
    trace, _ = smooth(samples=16, steps=50, width=64, depth=12, sites=(11,))
    scores = benchmark(lambda: Replay(trace, Site(11)).scores(PREDICTORS, SCHEDULES))
    assert len(scores) == 1000
