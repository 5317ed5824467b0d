"""Written against contract 1.0 on 2026-11-24, and never changed since: what it relies on is what every later foreseer has to keep.

It uses every hook with every argument, every type with every field, by position where that is natural and by name where it is not.
"""

import numpy as np
import torch

from foreseer import OUTPUT, Needs, Plan, Probe, Site, Verdict, Weights, hookimpl
from foreseer.metrics import relative_l1


class Gate:
    """Probe block 0 of every third step on its input, the last block of the others on its draft; every seventh row is computed."""

    verified = True
    decide = "row"
    max_draft_steps = None

    def __init__(self, threshold):
        self.threshold = threshold
        self.log = []

    @hookimpl
    def setup(self, run):
        self.run = run
        self.log.append((run.depth, run.rows, run.groups, run.num_steps, run.timesteps, run.sigmas, run.stream))
        self.sites = (Site(0), Site(run.depth - 2, "block"), Site(run.depth - 1))
        assert all(site in run.sites for site in self.sites)
        assert OUTPUT not in run.sites
        return (Needs(sites=self.sites, anchors=2), Needs(sites=(OUTPUT,), note="a note for the report"))

    @hookimpl
    def before_step(self, step):
        self.log.append((step.index, step.timestep, step.sigma))
        if step.index < 2:
            return Plan(reason="warm-up")
        if step.index == 5:
            return Plan()
        if step.index == 6:
            return None
        if step.index == 7:
            return Plan((OUTPUT,))
        probe = Probe(0, on="input") if step.index % 3 == 0 else Probe(block=self.run.depth - 1, on="draft")
        return Plan(forecast=self.sites, probe=probe, compute=tuple(row == 1 and step.index == 8 for row in range(self.run.rows)), reason="judged")

    @hookimpl
    def verify(self, step, evidence):
        assert evidence.site in self.sites
        by_hand = (evidence.forecast - evidence.computed).abs().flatten(1).sum(1) / evidence.computed.abs().flatten(1).sum(1)
        error = evidence.error(relative_l1, groups=self.run.groups)
        assert torch.allclose(by_hand.float(), error)
        return Verdict(error, torch.le(error, self.threshold), threshold=self.threshold)

    @hookimpl
    def commit(self, step, outcome):
        assert outcome.step == step
        self.log.append((outcome.computed, outcome.accept, outcome.block_rows, outcome.reason, outcome.full, outcome.plan.reason))
        assert outcome.seconds >= 0
        assert len(outcome.error) == self.run.rows
        assert isinstance(outcome.threshold, float)


class Predictor:
    """A line as weights at one site, the same line as a tensor at another, the newest feature at the output."""

    exact_degree = 0
    linear = True

    @hookimpl
    def setup(self, run):
        return Needs(anchors=2)

    @hookimpl
    def predict_features(self, step, sites, history):
        def line(anchors, target):
            slope = (target - anchors[0]) / (anchors[0] - anchors[1])
            return (1 + slope, -slope)

        weights = Weights.per_row(line, history.anchors, step.index)
        assert weights.values.dtype == np.float64
        drafts = dict.fromkeys(sites, weights)
        for site in sites:
            if site == OUTPUT:
                drafts[site] = Weights(np.eye(1, history.anchors.shape[1]).repeat(len(history.anchors), 0))
            if site.block == 0 and site.part == "block":
                features = history.features(site)
                table = torch.from_numpy(weights.values).to(features.dtype)
                drafts[site] = sum(w.reshape(-1, *[1] * (features.ndim - 2)) * f for w, f in zip(table.T, features, strict=True))
        return drafts


class Diary:
    """An observer that remembers all that it is told."""

    def __init__(self):
        self.lines = []

    @hookimpl
    def on_run_start(self, run):
        self.lines.append(("start", run.rows))

    @hookimpl
    def on_step(self, step, outcome):
        self.lines.append((step.index, sum(outcome.computed)))

    @hookimpl
    def on_run_end(self, report):
        self.lines.append(("end", report.policy, report.full_steps, report.block_rows, report.warnings, report.finished))
        assert report.computed.shape == report.error.shape == (len(report.outcomes), report.run.rows)
        assert set(report.to_dict()) >= {"policy", "finished", "rows", "depth", "steps", "bytes_held", "warnings", "full_steps", "block_rows"}


gates = []


def keepsake(*, threshold=0.05):
    """Two probes and a line."""
    gates.append(Gate(threshold))
    return gates[-1], Predictor()


def diary():
    """Remember everything."""
    return Diary()
