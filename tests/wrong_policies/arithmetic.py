"""Faults in numbers, and in the place within the engine."""

import itertools
from typing import Annotated

import torch

from foreseer import hookimpl
from foreseer.metrics import relative_l2
from foreseer.options import at_least_float, checked
from foreseer.policies import LinearPredictor
from foreseer.testing.partners import ReferencePredictor
from wrong_policies.parts import Gate, Predictor, caught_by, honest, line, two_points


@caught_by("check_constant_reproduced")
def bfloat16_inside():
    return Predictor(lambda self, step, site, history: history.features(site)[0].bfloat16().to(history.features(site).dtype))


@caught_by("check_constant_reproduced")
def wrong_beyond_six_steps():
    def weights(anchors, target):
        return (1.0,) if target - anchors[0] <= 6 and all(a - b <= 6 for a, b in itertools.pairwise(anchors)) else (0.9,)

    return LinearPredictor(weights, 3)


@caught_by("check_finite_forecast")
def ratio_of_two_features():
    def forecast(self, step, site, history):
        newest, before = history.features(site)[:2]
        known = torch.from_numpy(history.anchors[:, 1] == history.anchors[:, 1]).reshape(-1, *[1] * (newest.dim() - 1))
        return torch.where(known.to(newest.device), newest * (newest / before), newest)

    return Predictor(forecast)


@caught_by("check_finite_forecast")
def keeps_away_from_zero():
    """Features near zero are moved off it, so that others may divide by them."""

    def forecast(self, step, site, history):
        newest = history.features(site)[0]
        return torch.where(newest.abs() < 1e-6, torch.full_like(newest, 1e-6), newest)

    return Predictor(forecast)


@caught_by("check_finite_forecast")
def norm_of_each_token():
    def forecast(self, step, site, history):
        newest = history.features(site)[0]
        if newest.dim() < 3:
            return newest
        size = newest.norm(dim=-1, keepdim=True)
        return newest / size * size

    return Predictor(forecast)


@caught_by("check_finite_forecast")
def epsilon_that_is_none_in_half():
    def forecast(self, step, site, history):
        newest = history.features(site)[0]
        return newest * newest.abs() / (newest.abs() + 1e-10) if newest.dtype == torch.float16 else newest

    return Predictor(forecast)


@caught_by("check_exact_degree")
def slope_without_the_interval():
    return Predictor(lambda self, step, site, history: line(self, step, site, history, divide=False), exact_degree=1)


@caught_by("check_exact_degree")
def off_by_one():
    return Predictor(lambda self, step, site, history: line(self, step, site, history, ahead=1), exact_degree=1)


@caught_by("check_exact_degree")
def lies_about_its_degree():
    return LinearPredictor(lambda anchors, target: two_points(anchors[:2], target), 2, exact_degree=2)


@caught_by("check_linearity")
def says_linear():
    return Predictor(lambda self, step, site, history: history.features(site)[0].clamp(-1, 1), linear=True)


@caught_by("check_perfect_draft_accepted")
def suspicious_of_perfection():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        return error, (error > 0) & (error <= gate.threshold)

    return Gate(judge=judge)


@caught_by("check_threshold_monotone")
@checked
def the_other_way_round(*, threshold: Annotated[float, at_least_float(0.0)] = 1e-3):
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        return error, error * threshold <= 1e-4

    return Gate(judge=judge, threshold=threshold)


@caught_by("check_reject_all_is_identity")
def centres_the_stream():
    def judge(gate, step, evidence):
        evidence.computed.sub_(evidence.computed.mean(1, keepdim=True))
        return honest(gate, step, evidence)

    return Gate(judge=judge)


@caught_by("check_accounting")
def reports_another_threshold():
    return Gate(threshold=0.5, reported=1e-3)


@caught_by("check_composes")
@checked
def ignores_the_predictor(*, predictor="taylor"):
    return Gate(), ReferencePredictor()


def half_a_vote(largest):
    @caught_by("check_vote")
    def half():
        def judge(gate, step, evidence):
            error = evidence.error(relative_l2, groups=gate.run.groups)
            return error, (error <= gate.threshold) & ((evidence.computed - evidence.forecast).abs().flatten(1).amax(1) <= largest)

        return Gate(judge=judge)

    half.__name__ = f"half_a_vote_{largest:g}"


for limit in (0.001, 0.5, 3.0):
    half_a_vote(limit)


@caught_by("check_observer_survives")
def counts_down():
    class CountsDown:
        @hookimpl
        def on_run_start(self, run):
            self.left = int(run.num_steps)

        @hookimpl
        def on_step(self, step):
            self.left -= 1

    return CountsDown()


@caught_by("check_observer_survives")
def expects_float32():
    class ExpectsFloat32:
        @hookimpl
        def on_features(self, features):
            self.last = {site: feature.numpy().copy() for site, feature in features.items()}  # which bfloat16 is not

    return ExpectsFloat32()


@caught_by("check_observer_survives")
def expects_to_be_near():
    class ExpectsToBeNear:
        @hookimpl
        def features_wanted(self, run):
            return run.sites[-1:]

        @hookimpl
        def shadow(self):
            return True

        @hookimpl
        def on_shadow(self, drafts, features):
            self.off = max(int(1000 * (draft - features[site]).abs().max()) for site, draft in drafts.items())  # of NaN

    return ExpectsToBeNear()


class Rooms:
    """An observer with room for so much."""

    def __init__(self, room):
        self.room = room

    @hookimpl
    def on_step(self, run, step):
        self.room(run, step)


@caught_by("check_observer_survives")
def fifty_steps_at_most():
    return Rooms(lambda run, step: [0][step.index // 50])


@caught_by("check_observer_survives")
def eight_blocks_at_most():
    return Rooms(lambda run, step: [0][run.depth // 9])


@caught_by("check_observer_survives")
def no_noise_levels():
    return Rooms(lambda run, step: [0][step.sigma is not None])


@caught_by("check_observer_survives")
def begins_at_once():
    return Rooms(lambda run, step: [0][run.start])


@caught_by("check_observer_survives")
def no_guidance():
    return Rooms(lambda run, step: [0][run.rows - len(set(run.groups))])


@caught_by("check_observer_survives")
def tokens_in_a_row():
    class TokensInARow:
        @hookimpl
        def on_features(self, features):
            for feature in features.values():
                [0][feature.dim() // 4]

    return TokensInARow()


@caught_by("check_observer_survives")
def two_of_a_set():
    class TwoOfASet:
        @hookimpl
        def features_wanted(self, run):
            return tuple(set(run.sites))[:2]

        @hookimpl
        def on_features(self, features):
            pass

    return TwoOfASet()


@caught_by("check_observer_changes_nothing")
def samples_at_random():
    class SamplesAtRandom:
        @hookimpl
        def on_step(self, step):
            self.noted = torch.rand(()) < 0.1

    return SamplesAtRandom()


@caught_by("check_observer_changes_nothing")
def watches_without_gradients():
    class WatchesWithoutGradients:
        @hookimpl
        def on_run_start(self, run):
            torch.set_grad_enabled(False)

    return WatchesWithoutGradients()


SEEN = []


@caught_by("check_observer_is_its_own")
def album_of_the_module():
    class AlbumOfTheModule:
        @hookimpl
        def on_step(self, step):
            SEEN.append(torch.zeros(10))

    return AlbumOfTheModule()


class SharedLines:
    def __init__(self, lines=[]):  # noqa: B006  # the fault
        self.lines = lines

    @hookimpl
    def on_step(self, step):
        self.lines.append(step.index)


@caught_by("check_observer_is_its_own")
def shared_lines():
    return SharedLines()
