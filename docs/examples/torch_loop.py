"""A sampling loop in plain PyTorch: `Blocks` runs your blocks, and every installed policy drives them."""

# ruff: noqa: D102  # `foreseer.Backbone` documents the methods
import contextlib

import torch

import foreseer
from foreseer import OUTPUT, Evidence, Pass, Site


class Blocks:
    """Satisfies `foreseer.Backbone`. A feature is a block's output ``(R, width)``; inputs are ``(x, t)``;
    ``block(index, h, t)`` runs a block.
    """

    def __init__(self, block, depth):
        self.block, self.depth, self.sites = block, depth, tuple(map(Site, range(depth)))

    def rows(self, inputs):
        return len(inputs[0])

    @torch.no_grad()
    def forward(self, inputs, *, rows=None, substitute, probe=None, judge=None, record=()):
        h, start, spent, features = inputs[0] if rows is None else inputs[0][rows], 0, 0, {}

        def run(first, end, h):
            nonlocal spent
            for index in range(first, end):
                h, spent = self.block(index, h, inputs[1]), spent + len(h)
                features.update({Site(index): h} if Site(index) in record else {})
            return h

        if probe is not None:
            start, on_draft = probe.block + (probe.on == "input"), probe.on == "draft"
            h = run(start if on_draft else 0, probe.block + 1, substitute[Site(start - 1)] if on_draft and start else h)
            go_on = judge(Evidence(Site(probe.block), h, substitute[Site(probe.block)]))
            if on_draft and not go_on:
                return Pass(None, {}, spent)
            substitute = substitute if go_on else {}
        if OUTPUT in substitute:
            return Pass(substitute[OUTPUT], features, spent)
        last = max((site.block for site in substitute), default=-1)
        h = run(last + 1, self.depth, substitute[Site(last)]) if last >= start else run(start, self.depth, h)
        return Pass(h, {OUTPUT: h, **features} if OUTPUT in record else features, spent)

    def merge(self, output, rows, part):
        return output.index_copy(0, torch.tensor(rows), part)


if __name__ == "__main__":
    torch.manual_seed(0)
    layers, noise, times = [torch.nn.Linear(32, 32).double() for _ in range(8)], torch.randn(4, 32).double(), [1 - k / 40 for k in range(40)]
    host = Blocks(lambda index, h, t: h + torch.sin(3 * t + layers[index](h)) / 8, depth=8)
    loop = {"inputs": lambda x, t: (x, t), "update": lambda x, velocity, index: x - velocity / 40}
    exact, _ = foreseer.sample(host, noise, times, policy="none", **loop)
    for name in ("taylorseer:target=last_block", "cg_taylor", "cg_taylor:predictor=newton", "cg_taylor:predictor=hicache", "budget:fraction=0.4"):
        with contextlib.suppress(foreseer.PluginError):  # not installed: pip install foreseer-newton foreseer-hicache foreseer-budget
            x, report = foreseer.sample(host, noise, times, policy=name, **loop)
            print(f"{name:28} {report.block_rows_ratio:6.1%} of the block-rows, off by {(x - exact).norm() / exact.norm():.1e}")
