"""Faults between rows, and in what is remembered."""

import torch

from foreseer import Needs, Plan, Weights, hookimpl
from foreseer.metrics import relative_l2
from wrong_policies.parts import Every, Gate, Predictor, caught_by, honest, two_points


@caught_by("check_row_isolation")
def batch_mean():
    def judge(gate, step, evidence):
        error = relative_l2(evidence.computed, evidence.forecast).mean().expand(len(evidence.computed))
        return error, error <= gate.threshold

    return Gate(judge=judge)


@caught_by("check_row_permutation")
def first_row_leads():
    def judge(gate, step, evidence):
        error = relative_l2(evidence.computed, evidence.forecast)[:1].expand(len(evidence.computed))
        return error, error <= gate.threshold

    return Gate(judge=judge)


@caught_by("check_row_subset")
def threshold_by_batch_size():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        return error, error <= gate.threshold / gate.run.rows**4

    return Gate(judge=judge)


@caught_by("check_groups")
def ignores_groups():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2)
        return error, error <= gate.threshold

    return Gate(judge=judge)


@caught_by("check_row_subset")
def four_rows_at_most():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        error = error[torch.arange(len(error), device=error.device) % 4]
        return error, error <= gate.threshold

    return Gate(judge=judge)


@caught_by("check_groups")
def relative_to_the_other_samples():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        if len(set(gate.run.groups)) < len(gate.run.groups):  # with guidance
            error = error / (1 + error.max())
        return error, error <= gate.threshold

    return Gate(judge=judge)


@caught_by("check_groups")
def numbers_of_samples_as_places():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        scale = torch.tensor([1.0 + 0.1 * group for group in gate.run.groups], device=error.device)
        return (error * scale, error * scale <= gate.threshold) if len(set(gate.run.groups)) < len(error) else (error, error <= gate.threshold)

    return Gate(judge=judge)


@caught_by("check_row_subset")
def eight_rows_at_most():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        error = error[torch.arange(len(error), device=error.device) % 8]
        return error, error <= gate.threshold

    return Gate(judge=judge)


@caught_by("check_groups")
def pairs_at_most():
    """The third row of a sample is judged alone."""

    def judge(gate, step, evidence):
        groups = gate.run.groups
        named = [group if groups[:row].count(group) < 2 else 100 + row for row, group in enumerate(groups)]
        error = evidence.error(relative_l2, groups=named)
        return error, error <= gate.threshold

    return Gate(judge=judge)


class Planned(Every):
    """Forecasts all but every third step, and says which rows are computed."""

    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    @hookimpl
    def setup(self, run):
        self.run = run
        return super().setup(run)

    @hookimpl
    def before_step(self, step):
        return Plan(forecast=self.sites, compute=self.compute(self.run.groups)) if step.index % 3 else None


@caught_by("check_groups")
def rows_counted_as_samples():
    return Planned(lambda groups: (False,) * len(set(groups)))


@caught_by("check_groups")
def second_row_of_each_pair():
    return Planned(lambda groups: tuple(group in groups[:row] for row, group in enumerate(groups)))


@caught_by("check_groups")
def forecasts_as_many_rows_as_samples():
    class AsManyRowsAsSamples(Predictor):
        @hookimpl
        def setup(self, run):
            self.samples = len(set(run.groups))
            return super().setup()

    return AsManyRowsAsSamples(lambda self, step, site, history: history.features(site)[0][: self.samples])


@caught_by("check_only_computed_is_committed")
def feeds_itself():
    def forecast(self, step, site, history):
        newest, anchor = history.features(site)[0], history.anchors[:, 0].tolist()
        known = self.kept.get(site)
        base = known[1] if known is not None and known[0] == anchor else newest
        self.kept[site] = (anchor, 0.5 * (base + newest.mean(1, keepdim=True)))
        return self.kept[site][1]

    return Predictor(forecast)


@caught_by("check_only_computed_is_committed")
def keeps_features():
    def forecast(self, step, site, history):
        self.kept[site] = history.features(site)[0]
        return self.kept[site]

    return Predictor(forecast)


@caught_by("check_only_computed_is_committed")
def learns_from_drafts():
    """The probed block's output is fed into the next forecast of it, whether the step was computed or not."""
    kept = {}

    def judge(gate, step, evidence):
        kept[evidence.site] = 0.5 * evidence.computed
        return honest(gate, step, evidence)

    def forecast(self, step, site, history):
        newest = history.features(site)[0]
        return 0.5 * newest + kept[site] if site in kept else newest

    return Gate(judge=judge), Predictor(forecast)


@caught_by("check_ragged_anchors")
def first_rows_anchors():
    class FirstRowsAnchors:
        @hookimpl
        def setup(self):
            return Needs(anchors=2)

        @hookimpl
        def predict_features(self, step, sites, history):
            anchors = history.anchors[:1].repeat(len(history.anchors), 0)
            weights = Weights.per_row(two_points, anchors, step.index).values
            weights[(history.anchors != history.anchors)] = 0
            return dict.fromkeys(sites, Weights(weights))

    return FirstRowsAnchors()
