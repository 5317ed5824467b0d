"""Right policies of contract 1.2: residuals, evidence in front of the model and at the anchor, inner products, and drafts that wait."""

import functools
import math
from typing import Annotated

import numpy as np
import torch

from foreseer import LATENT, MODULATED, Late, Needs, Plan, Probe, Site, Verdict, Weights, hookimpl
from foreseer.metrics import relative_l1
from foreseer.options import at_least_float, checked
from foreseer.policies import predictor_from
from foreseer.transfer import on_device


class Residual:
    """Forecast what the blocks behind ``since`` add, after two computed steps and at most six times in a row."""

    max_draft_steps = 6
    since, anchors, seen, products, probe = -1, 1, (), False, None

    @hookimpl
    def setup(self, run):
        self.run, self.drafts = run, [0] * run.rows
        self.site = Site(run.depth - 1, since=self.since if self.since < run.depth - 1 else -1)
        return Needs(sites=(self.site,), anchors=self.anchors, evidence=self.seen, products=self.products)

    def due(self, step):
        return tuple(n >= 6 for n in self.drafts)

    @hookimpl
    def before_step(self, step):
        return None if step.index < 2 else Plan(forecast=(self.site,), probe=self.probe, compute=self.due(step))

    @hookimpl
    def commit(self, outcome):
        self.drafts = [0 if computed else n + 1 for n, computed in zip(self.drafts, outcome.computed, strict=True)]


class FirstBlock(Residual):
    """What block 0 adds, against what it added when the row was last computed."""

    since, seen, probe, verified = 0, (Site(0, since=-1),), Probe(Site(0, since=-1)), True

    def __init__(self, threshold=0.05):
        self.threshold = threshold

    def error(self, evidence):
        return evidence.error(relative_l1, groups=self.run.groups, against="anchor")

    @hookimpl
    def verify(self, evidence):
        error = self.error(evidence)
        return Verdict(error, error <= self.threshold, self.threshold)


class Gathering(FirstBlock):
    """How far something in front of the model moves from step to step, added up since the row was last computed."""

    since, seen, probe = -1, (LATENT,), Probe(LATENT)

    @hookimpl
    def setup(self, run):
        self.sums = [0.0] * run.rows
        return super().setup(run)

    def error(self, evidence):
        moved = evidence.error(relative_l1, groups=self.run.groups, against="before")
        return moved + on_device(np.asarray(self.sums), moved.device, moved.dtype)

    @hookimpl
    def commit(self, outcome):
        super().commit(outcome)
        self.sums = [0.0 if computed or not math.isfinite(e) else e for computed, e in zip(outcome.computed, outcome.error, strict=True)]


class Mixing(FirstBlock):
    """A late draft: the last two residuals, mixed by how far block 0's has gone since the row was computed."""

    since, anchors = -1, 2

    @hookimpl
    def predict_features(self, sites, history):
        return dict.fromkeys(sites, Late(functools.partial(self.mix, sites[0], history)))

    def mix(self, site, history, live):
        now, *then = history.features(site)
        if live.evidence is None or not then:  # where the probed place itself is forecast, or the run has one step
            return now.clone()
        shape = (-1, *(1,) * (now.dim() - 1))
        moved = relative_l1(live.evidence.anchor, live.evidence.computed, groups=self.run.groups)
        pairs = on_device(np.isfinite(history.anchors[:, 1]), now.device)
        weight = torch.where(pairs, moved.clamp(0.0, 0.5), 0.0).to(now.dtype).reshape(shape)
        return now + weight * (now - then[0])


class ByProducts(Residual):
    """Compute a sample whose last two computed features lay far apart, and two steps on in any case."""

    anchors, products = 2, True

    @hookimpl
    def setup(self, run):
        self.far = [True] * run.rows
        return super().setup(run)

    def distance(self, table):
        if len(table) < 2:  # a run of one step keeps one feature
            return math.inf
        now, then = table[0, 0], table[1, 1]
        return math.sqrt(max(now + then - 2 * table[0, 1], 0.0) / now) if now > 0 else math.inf

    def is_far(self, distance):
        return not distance <= 0.1

    def due(self, step):
        return tuple(far or n >= 6 for far, n in zip(self.far, self.drafts, strict=True))

    @hookimpl
    def commit(self, outcome):
        super().commit(outcome)
        groups = self.run.groups
        for row, computed in enumerate(outcome.computed):
            if computed and self.site in outcome.products:
                members = [other for other, group in enumerate(groups) if group == groups[row]]
                self.far[row] = self.is_far(self.distance(outcome.products[self.site][members].sum(0)))


def with_reuse(gate, order=0):
    return gate, predictor_from("taylor", max_order=order)


@checked
def first_block(*, threshold: Annotated[float, at_least_float(0.0)] = 0.05):
    return with_reuse(FirstBlock(threshold))


@checked
def gathering(*, threshold: Annotated[float, at_least_float(0.0)] = 0.1):
    return with_reuse(Gathering(threshold))


def modulated():
    class Modulated(Gathering):
        seen, probe = (MODULATED,), Probe(MODULATED)

    return with_reuse(Modulated(0.1), 1)


def mixing():
    return Mixing()


def by_products():
    return with_reuse(ByProducts(), 1)


def late_reuse():
    """A predictor alone."""

    class LateReuse:
        exact_degree = 0

        @hookimpl
        def predict_features(self, sites, history):
            reused = Weights.per_row(lambda anchors, target: (1.0,), history.anchors, 0.0)
            return dict.fromkeys(sites, Late(lambda live: reused))

    return LateReuse()


RIGHT = (mixing, by_products, first_block, gathering, modulated, late_reuse)
