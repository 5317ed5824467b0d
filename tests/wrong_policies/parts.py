"""What the faults are put into: each part is right as it stands."""

from typing import Annotated

import torch

from foreseer import Needs, OptionError, Plan, Probe, Site, Verdict, Weights, hookimpl
from foreseer.metrics import relative_l2
from foreseer.options import at_least_float, checked
from foreseer.policies import predictor_from


def honest(gate, step, evidence):
    error = evidence.error(relative_l2, groups=gate.run.groups)
    return error, error <= gate.threshold


class Gate:
    """Probe the first block, forecast the last; at most six drafts in a row."""

    max_draft_steps = 6
    verified = True

    def __init__(self, *, judge=honest, threshold=0.05, reported=None):
        self.judge, self.threshold = judge, threshold
        self.reported = threshold if reported is None else reported

    @hookimpl
    def setup(self, run):
        self.run, self.drafts = run, [0] * run.rows
        self.sites = tuple(dict.fromkeys((Site(0), Site(run.depth - 1))))
        return Needs(sites=self.sites)

    @hookimpl
    def before_step(self, step):
        if step.index < 2:
            return None
        return Plan(forecast=self.sites, probe=Probe(0), compute=tuple(n >= 6 for n in self.drafts))

    @hookimpl
    def verify(self, step, evidence):
        return Verdict(*self.judge(self, step, evidence), self.reported)

    @hookimpl
    def commit(self, outcome):
        self.drafts = [0 if computed else n + 1 for n, computed in zip(self.drafts, outcome.computed, strict=True)]


class Predictor:
    """Forecasts by tensors: ``forecast(predictor, step, site, history) -> (R, ...)``."""

    def __init__(self, forecast, *, exact_degree=None, linear=False, anchors=2):
        self.forecast, self.exact_degree, self.linear, self.anchors = forecast, exact_degree, linear, anchors
        self.kept = {}

    @hookimpl
    def setup(self):
        return Needs(anchors=self.anchors)

    @hookimpl
    def predict_features(self, step, sites, history):
        return {site: self.forecast(self, step, site, history) for site in sites}


def line(predictor, step, site, history, *, ahead=0, divide=True):
    """A line through the last two features of each row; reuse while there is one."""
    newest, before = history.features(site)[:2]
    anchors = torch.from_numpy(history.anchors)[:, :2]
    gap = anchors[:, 0] - anchors[:, 1] if divide else torch.ones(len(anchors))
    x = ((step.index + ahead - anchors[:, 0]) / gap).nan_to_num(0.0) * ~anchors[:, 1].isnan()
    x = x.reshape(-1, *[1] * (newest.dim() - 1))
    return (newest.double() + x.to(newest.device) * (newest - before).double()).to(newest.dtype)


class Every:
    """Compute every n-th step."""

    def __init__(self, n=3):
        self.n = n
        self.max_draft_steps = n - 1

    @hookimpl
    def setup(self, run):
        self.sites = tuple(site for site in run.sites if site.part != "block") or (Site(run.depth - 1),)
        self.since = 0
        return Needs(sites=self.sites)

    @hookimpl
    def before_step(self, step):
        return None if step.index == 0 or self.since >= self.n - 1 else Plan(forecast=self.sites)

    @hookimpl
    def commit(self, outcome):
        self.since = 0 if outcome.full else self.since + 1


class Last:
    """Remembers the last step's index."""

    def __init__(self):
        self.last = None

    @hookimpl
    def on_run_start(self, run):
        self.num_steps = run.num_steps

    @hookimpl
    def on_step(self, step):
        self.last = step.index

    @hookimpl
    def on_run_end(self, report):
        self.ratio = report.block_rows_ratio


def two_points(anchors, target):
    if len(anchors) == 1:
        return (1.0,)
    x = (target - anchors[0]) / (anchors[0] - anchors[1])
    return (1 + x, -x)


@checked
def gate(*, threshold: Annotated[float, at_least_float(0.0)] = 0.05, predictor="taylor"):
    """A gate and a predictor, right in all."""
    return Gate(threshold=threshold), predictor_from(predictor, max_order=1)


def lone_gate():
    return Gate()


def secant():
    return Predictor(line, exact_degree=1, linear=True)


def every():
    return Every()


class SigmaLine:
    """A line in the noise level where it is known, and in the step index where not."""

    linear = True

    @hookimpl
    def setup(self, run):
        self.run = run
        return Needs(anchors=2)

    @hookimpl
    def predict_features(self, step, sites, history):
        at = float if self.run.sigmas is None else lambda anchor: self.run.sigmas[int(anchor)]
        target = step.index if self.run.sigmas is None else step.sigma
        weights = Weights.per_row(lambda anchors, _: two_points([at(a) for a in anchors[:2]], target), history.anchors, 0.0)
        return dict.fromkeys(sites, weights)


def sigma_line():
    return SigmaLine()


def last():
    return Last()


@checked
def finds_its_threshold(*, threshold: float | None = None):
    """An option whose default is None."""
    return Gate(threshold=0.05 if threshold is None else threshold)


@checked
def bounded_threshold(*, threshold: Annotated[float, at_least_float(0.0)] | None = None):
    return Gate(threshold=0.05 if threshold is None else threshold)


class Demanding(Gate):
    """Says by OptionError what it needs."""

    def __init__(self, *, sigmas=False, blocks=0, steps=0):
        super().__init__()
        self.needs_sigmas, self.needs_blocks, self.needs_steps = sigmas, blocks, steps

    @hookimpl
    def setup(self, run):
        if self.needs_sigmas and run.sigmas is None:
            raise OptionError("give sigmas=")
        if run.num_steps is not None and run.num_steps < self.needs_steps:
            raise OptionError(f"num_steps={run.num_steps} is too few; at least {self.needs_steps} are needed")
        if run.depth < self.needs_blocks:
            raise OptionError(f"the model has {run.depth} blocks; at least {self.needs_blocks} are needed")
        return super().setup(run)


def needs_sigmas():
    return Demanding(sigmas=True)


def needs_eight_blocks():
    return Demanding(blocks=8)


def needs_both():
    return Demanding(sigmas=True, blocks=8)


class SigmaOnly(SigmaLine):
    """A predictor that has no other axis."""

    @hookimpl
    def setup(self, run):
        if run.sigmas is None:
            raise OptionError("give sigmas=")
        return super().setup(run)


def sigma_only():
    return SigmaOnly()


def needs_thirty_steps():
    return Demanding(steps=30)


def needs_fifty_blocks():
    return Demanding(blocks=50)


def sorted_set():
    """A set that is sorted may be chosen from."""

    class SortedSet(Every):
        @hookimpl
        def setup(self, run):
            super().setup(run)
            self.sites = tuple(sorted(set(self.sites), key=str))[:3]
            return Needs(sites=self.sites)

    return SortedSet()


RIGHT = (
    gate,
    lone_gate,
    secant,
    sigma_line,
    every,
    last,
    finds_its_threshold,
    bounded_threshold,
    needs_sigmas,
    needs_eight_blocks,
    needs_both,
    needs_thirty_steps,
    needs_fifty_blocks,
    sigma_only,
    sorted_set,
)

WRONG = {}
"""``factory -> the check that names its fault``."""


def caught_by(check):
    """Note which check must catch a policy."""

    def mark(factory):
        WRONG[factory] = check
        return factory

    return mark
