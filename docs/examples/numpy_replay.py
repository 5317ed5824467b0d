"""Policies on recorded features, with numpy and without a model: what each would have computed, and how far
off its forecasts would have been.

The features are made up here. Yours are arrays ``(steps, rows, ...)`` of each block's output, recorded once,
for example with `numpy.savez`.
"""

import contextlib

import numpy as np

import foreseer
from foreseer import Site
from foreseer.adapters import ArrayBackbone

POLICIES = ("taylorseer:target=last_block", "cg_taylor", "cg_taylor:predictor=newton", "cg_taylor:predictor=hicache", "budget:fraction=0.4")


def made_up(steps=40, rows=4, depth=8, width=32):
    """Smooth features, each row at its own speed, that turn sharply once: row 0 early, the last row late."""
    random = np.random.default_rng(0)
    time = np.linspace(0, 1, steps)[:, None, None]
    speed, turn = 1 + np.arange(rows)[:, None], 0.2 + 0.6 * np.arange(rows)[:, None] / rows
    features = {}
    for block in range(depth):
        phase, jump = random.normal(size=(2, rows, width))
        features[Site(block)] = 3 + np.sin(speed * time + phase) + jump / (1 + np.exp(-80 * (time - turn)))
    return features


def main():
    """Replay them under every policy that is installed."""
    features = made_up()
    host, last = ArrayBackbone.recorded(features), features[max(features, key=lambda site: site.block)]
    for name in POLICIES:
        with contextlib.suppress(foreseer.PluginError):  # not installed: pip install foreseer-newton foreseer-hicache foreseer-budget
            x, report = foreseer.sample(host, (), range(len(last)), policy=name, inputs=lambda x, k: k, update=lambda x, out, k: (*x, out))
            error = np.abs(np.array(x) - last).mean() / np.abs(last).mean()
            print(f"{name:28} {report.block_rows_ratio:6.1%} of the block-rows, off by {error:.1e}, steps of each row {report.computed.sum(0).tolist()}")


if __name__ == "__main__":
    main()
