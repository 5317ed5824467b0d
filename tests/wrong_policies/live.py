"""Faults in what contract 1.2 brought: evidence of other steps, residuals, late drafts and inner products."""

import math
from typing import Annotated

import numpy as np
import torch

from foreseer import LATENT, Probe, Verdict, hookimpl
from foreseer.metrics import relative_l1
from foreseer.options import at_least_float
from foreseer.transfer import on_device
from wrong_policies.live_parts import ByProducts, FirstBlock, Gathering, Mixing, with_reuse
from wrong_policies.parts import caught_by


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
