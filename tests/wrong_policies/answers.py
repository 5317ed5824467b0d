"""Faults in what a policy answers: shapes, and what it accepts."""

import torch

from foreseer import Needs, OptionError, Plan, Site, Weights, hookimpl
from foreseer.metrics import relative_l2
from wrong_policies.parts import Every, Gate, Predictor, caught_by, honest, line


@caught_by("check_forecast_signature")
def wrong_dtype():
    return Predictor(lambda self, step, site, history: line(self, step, site, history).float())


@caught_by("check_forecast_signature")
def one_site_only():
    class OneSiteOnly:
        @hookimpl
        def predict_features(self, sites, history):
            return {sites[-1]: Weights.per_row(lambda anchors, target: (1.0,), history.anchors, 0.0)}

    return OneSiteOnly()


@caught_by("check_verdict_signature")
def one_error_for_all():
    def judge(gate, step, evidence):
        error = relative_l2(evidence.computed, evidence.forecast).mean()
        return error, error <= gate.threshold

    return Gate(judge=judge)


@caught_by("check_plan_valid")
def hard_coded_depth():
    class HardCodedDepth:
        @hookimpl
        def setup(self):
            return Needs(sites=(Site(2),))

        @hookimpl
        def before_step(self, step):
            return None if step.index % 3 == 0 else Plan(forecast=(Site(2),))

    return HardCodedDepth()


@caught_by("check_no_mutation")
def writes_to_the_evidence():
    def judge(gate, step, evidence):
        error, accept = honest(gate, step, evidence)
        evidence.forecast.sub_(evidence.computed).abs_()
        return error, accept

    return Gate(judge=judge)


@caught_by("check_no_mutation")
def writes_to_the_history():
    def forecast(self, step, site, history):
        newest = history.features(site)[0]
        return newest.mul_(1.0).add_(0.001)

    return Predictor(forecast)


@caught_by("check_no_mutation")
def gives_its_weights_twice():
    class GivesItsWeightsTwice:
        weights = None

        @hookimpl
        def setup(self):
            return Needs(anchors=2)

        @hookimpl
        def predict_features(self, step, sites, history):
            if self.weights is None:
                self.weights = Weights(history.anchors * 0)
            self.weights.values[:, 0] = 1 + 0.01 * step.index
            return dict.fromkeys(sites, self.weights)

    return GivesItsWeightsTwice()


@caught_by("check_first_step_computed")
def forecasts_the_first_step():
    class ForecastsTheFirstStep(Every):
        @hookimpl
        def before_step(self, step):
            return None if step.index % 3 == 1 else Plan(forecast=self.sites)

    return ForecastsTheFirstStep()


@caught_by("check_nan_rejected")
def accepts_nan():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        return error.nan_to_num(0.0, posinf=1e9), ~(error > gate.threshold)

    return Gate(judge=judge)


@caught_by("check_nan_rejected")
def nothing_over_nothing():
    def judge(gate, step, evidence):
        size = evidence.computed.abs().sum(1)
        error = ((evidence.forecast - evidence.computed).abs().sum(1) / size).where(size != 0, 0.0).float()
        return error, error <= gate.threshold

    return Gate(judge=judge)


@caught_by("check_bounded_drafting")
def never_computes_again():
    class NeverComputesAgain(Every):
        @hookimpl
        def before_step(self, step):
            return None if step.index < 3 else Plan(forecast=self.sites)

    policy = NeverComputesAgain()
    policy.max_draft_steps = None
    return policy


@caught_by("check_bounded_drafting")
def counts_full_steps_only():
    class CountsFullStepsOnly:
        """Says that a row gets three drafts in a row; forgets to count where another row was computed."""

        max_draft_steps = 3

        @hookimpl
        def setup(self, run):
            self.sites, self.since = (Site(run.depth - 1),), 0
            return Needs(sites=self.sites)

        @hookimpl
        def before_step(self, step):
            return None if step.index == 0 or self.since >= 3 else Plan(forecast=self.sites)

        @hookimpl
        def commit(self, outcome):
            self.since = 0 if any(outcome.computed) else self.since + 1

    return CountsFullStepsOnly()


@caught_by("check_step_grid")
def recognises_timesteps():
    class RecognisesTimesteps(Every):
        @hookimpl
        def before_step(self, step):
            return None if step.index < 2 or int(step.timestep) % 3 == 0 else Plan(forecast=self.sites)

    return RecognisesTimesteps()


@caught_by("check_step_grid")
def divides_by_the_timesteps():
    def forecast(self, step, site, history):
        gap = 0.0 if step.timestep is None or self.kept.get("last") is None else step.timestep - self.kept["last"]
        self.kept["last"] = step.timestep
        return history.features(site)[0] * (torch.tensor(gap) / torch.tensor(gap) if step.timestep is not None else 1.0)

    return Predictor(forecast)


@caught_by("check_verified")
def says_verified():
    policy = Every()
    policy.verified = True
    return policy


@caught_by("check_ragged_anchors")
def slopes_by_token():
    """Right for features (rows, channels): with tokens, each row's step is multiplied to the tokens."""

    def forecast(self, step, site, history):
        newest, before = history.features(site)[:2]
        anchors = torch.from_numpy(history.anchors)
        x = ((step.index - anchors[:, 0]) / (anchors[:, 0] - anchors[:, 1])).nan_to_num(0.0) * ~anchors[:, 1].isnan()
        return (newest + x[:, None] * (newest - before)).to(newest.dtype)

    return Predictor(forecast)


@caught_by("check_verdict_signature")
def sum_over_one_axis():
    def judge(gate, step, evidence):
        error = ((evidence.forecast - evidence.computed).abs().sum(1) / evidence.computed.abs().sum(1)).float()
        return error, error <= gate.threshold

    return Gate(judge=judge)


@caught_by("check_device")
def tensor_of_the_cpu():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups) * torch.ones(gate.run.rows)
        return error, error <= gate.threshold

    return Gate(judge=judge)


@caught_by("check_device")
def waits_for_the_device():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        return error, torch.tensor([value <= gate.threshold for value in error.tolist()])

    return Gate(judge=judge)


@caught_by("check_device")
def waits_before_the_next_step():
    def judge(gate, step, evidence):
        gate.last = evidence.error(relative_l2, groups=gate.run.groups)
        return gate.last, gate.last <= gate.threshold

    class WaitsBeforeTheNextStep(Gate):
        last = None

        @hookimpl
        def before_step(self, step):
            return None if self.last is not None and self.last.max().item() > 10 else super().before_step(step)

    return WaitsBeforeTheNextStep(judge=judge)


@caught_by("check_device")
def forecasts_in_numpy():
    return Predictor(lambda self, step, site, history: torch.from_numpy(history.features(site)[0].float().numpy()).to(history.features(site).dtype))


def _by_schedule(threshold_of, need=()):
    """A gate whose threshold depends on what the run knows, and that refuses runs which do not know all that it names in ``need``."""

    class BySchedule(Gate):
        @hookimpl
        def setup(self, run):
            for name in need:
                if getattr(run, name) is None:
                    raise OptionError(f"give {name}=")
            return super().setup(run)

    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        return error, error <= threshold_of(gate.run, step)

    return BySchedule(judge=judge)


@caught_by("check_step_grid")
def sigmas_for_granted():
    return _by_schedule(lambda run, step: 0.05 * (0.5 + step.sigma), need=["timesteps"])


@caught_by("check_step_grid")
def timesteps_for_granted():
    return _by_schedule(lambda run, step: 0.05 * (0.5 + step.timestep / 2000), need=["num_steps"])


@caught_by("check_step_grid")
def even_numbers_of_steps_only():
    return _by_schedule(lambda run, step: ([0.05] * (2 * ((run.num_steps or 2000) // 2)))[step.index])
