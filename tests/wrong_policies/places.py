"""Policies of contract 1.2: residuals, evidence in front of the model and at the anchor, inner products, and drafts that wait. Right ones and wrong ones."""

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
from wrong_policies.parts import caught_by


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


RIGHT_PLACES = (first_block, gathering, modulated, mixing, by_products, late_reuse)


@caught_by("check_nan_rejected")
def accepts_what_was_never_seen():
    class AcceptsWhatWasNeverSeen(FirstBlock):
        def error(self, evidence):
            return super().error(evidence).nan_to_num(0.0, posinf=1e9)

    return with_reuse(AcceptsWhatWasNeverSeen())


@caught_by("check_nan_rejected")
def adds_half_of_what_cannot_be_compared():
    """0/0 and x/0 count as having stood still."""

    class AddsHalf(Gathering):
        def error(self, evidence):
            size = evidence.before.abs().flatten(1).sum(1)
            moved = (evidence.computed - evidence.before).abs().flatten(1).sum(1) / size
            return moved.where(size != 0, 0.0).float()

    return with_reuse(AddsHalf(0.1))


@caught_by("check_perfect_draft_accepted")
def waits_for_movement():
    class WaitsForMovement(FirstBlock):
        @hookimpl
        def verify(self, evidence):
            error = self.error(evidence)
            return Verdict(error, (error > 1e-3) & (error <= self.threshold), self.threshold)

    return with_reuse(WaitsForMovement())


@caught_by("check_threshold_monotone")
def divides_by_the_threshold(*, threshold: Annotated[float, at_least_float(0.0)] = 0.05):
    return with_reuse(FirstBlock(0.05**2 / threshold))


@caught_by("check_groups")
def gathers_row_by_row():
    class GathersRowByRow(Gathering):
        def error(self, evidence):
            moved = evidence.error(relative_l1, against="before")
            return moved + on_device(np.asarray(self.sums), moved.device, moved.dtype)

    return with_reuse(GathersRowByRow(0.1))


@caught_by("check_row_isolation")
def one_anchor_for_all():
    class OneAnchorForAll(FirstBlock):
        def error(self, evidence):
            return relative_l1(evidence.anchor.mean(0, keepdim=True), evidence.computed)

    return with_reuse(OneAnchorForAll(0.5))


@caught_by("check_vote")
def votes_on_half_of_it():
    class VotesOnHalfOfIt(FirstBlock):
        def error(self, evidence):
            return super().error(evidence) + 0.1 * relative_l1(evidence.before, evidence.computed, groups=self.run.groups)

    return with_reuse(VotesOnHalfOfIt())


@caught_by("check_evidence_not_kept")
def keeps_its_own_anchor():
    """The size of what it was shown last, whether the row was computed then or not."""

    class KeepsItsOwnAnchor(FirstBlock):
        last = None

        def error(self, evidence):
            size = evidence.computed.abs().flatten(1).sum(1)
            last, self.last = self.last, size
            return super().error(evidence) if last is None else ((size - last).abs() / last).float()

    return with_reuse(KeepsItsOwnAnchor())


@caught_by("check_evidence_not_kept")
def gathers_on_the_device():
    class GathersOnTheDevice(FirstBlock):
        since, seen, probe, total = -1, (LATENT,), Probe(LATENT), 0.0

        def error(self, evidence):
            self.total = self.total + evidence.error(relative_l1, groups=self.run.groups, against="before")
            return self.total

    return with_reuse(GathersOnTheDevice(0.5))


@caught_by("check_residual_added")
def adds_the_stream_twice():
    class AddsTheStreamTwice(Mixing):
        def mix(self, site, history, live):
            return live.input + history.features(site)[0]

    return AddsTheStreamTwice()


@caught_by("check_residual_added")
def nothing_over_nothing_late():
    """By how much the residual has grown, as 0/0 where it is nothing."""

    class NothingOverNothing(Mixing):
        seen, probe = (LATENT,), Probe(LATENT)

        def mix(self, site, history, live):
            now, *then = history.features(site)
            return now * (now / then[0]).clamp(0.5, 1.0) if then else now.clone()

    return NothingOverNothing(10.0)


@caught_by("check_row_isolation")
def late_mean_over_the_batch():
    class LateMean(Mixing):
        def mix(self, site, history, live):
            now = history.features(site)[0]
            return now + 1e-3 * live.input.mean(0, keepdim=True)

    return LateMean()


@caught_by("check_no_mutation")
def late_and_in_place():
    class LateAndInPlace(Mixing):
        def mix(self, site, history, live):
            return live.input.mul_(0.01) + history.features(site)[0]

    return LateAndInPlace()


@caught_by("check_no_mutation")
def normalises_the_products_in_place():
    class NormalisesInPlace(ByProducts):
        @hookimpl
        def commit(self, outcome):
            for table in outcome.products.values():
                table /= np.maximum(table[:, :1, :1], 1e-30)
            super().commit(outcome)

    return with_reuse(NormalisesInPlace(), 1)


@caught_by("check_products_decide")
def distance_without_a_unit():
    class DistanceWithoutAUnit(ByProducts):
        def distance(self, table):
            return super().distance(table) * math.sqrt(table[0, 0])

    return with_reuse(DistanceWithoutAUnit(), 1)


@caught_by("check_products_decide")
def far_is_what_is_more():
    class FarIsWhatIsMore(ByProducts):
        def is_far(self, distance):
            return distance > 0.1

        def distance(self, table):
            return math.sqrt(abs(table[0, 0] - 2 * table[0, 1] + table[1, 1]) / table[0, 0]) if len(table) > 1 else math.inf

    return with_reuse(FarIsWhatIsMore(), 1)


@caught_by("check_row_permutation")
def products_of_the_first_row():
    class ProductsOfTheFirstRow(ByProducts):
        @hookimpl
        def commit(self, outcome):
            super().commit(outcome)
            self.far = [self.far[0]] * self.run.rows

    return with_reuse(ProductsOfTheFirstRow(), 1)


class BeforeStep(ByProducts):
    def __init__(self, wait):
        self.wait = wait

    @hookimpl
    def before_step(self, step):
        plan = super().before_step(step)
        if plan is not None:  # where it forecasts, which on "meta" it does not by products that are NaN
            self.wait(self)
        return plan


@caught_by("check_device")
def synchronizes_before_a_forecast():
    return with_reuse(BeforeStep(lambda gate: torch.cuda.synchronize() if torch.cuda.is_available() else None), 1)


@caught_by("check_device")
def waits_for_an_event():
    return with_reuse(BeforeStep(lambda gate: torch.cuda.Event.synchronize(None) if torch.cuda.is_available() else None), 1)


@caught_by("check_device")
def reads_what_it_kept_and_excuses_itself():
    class ReadsWhatItKept(FirstBlock):
        last = None

        def error(self, evidence):
            self.last = super().error(evidence)
            return self.last

        @hookimpl
        def before_step(self, step):
            try:
                if self.last is not None and float(self.last.max()) > 10:
                    return None
            except RuntimeError:
                pass
            return super().before_step(step)

    return with_reuse(ReadsWhatItKept())


@caught_by("check_device")
def a_late_draft_that_waits():
    class LateThatWaits(Mixing):
        def mix(self, site, history, live):
            now = history.features(site)[0]
            return now if live.input.abs().max().item() < 1e9 else now * 0

    return LateThatWaits()
