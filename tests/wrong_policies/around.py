"""Faults around a policy: how it is packaged, and how long its state lives."""

from typing import Annotated

import attrs
import torch

from foreseer import Needs, Plan, Site, hookimpl
from foreseer.metrics import relative_l2
from foreseer.options import at_least
from wrong_policies.parts import Every, Gate, caught_by, honest


@caught_by("check_hooks_known")
def misspelt_hook():
    class MisspeltHook(Every):
        def before_steps(self, step):
            return None

    return MisspeltHook()


@caught_by("check_hooks_known")
def override_without_marker():
    class Override(Every):
        def before_step(self, step):
            return None

    return Override()


@attrs.define
class EqualByValue:
    n: int = 3

    @hookimpl
    def before_step(self, step):
        return None


caught_by("check_identity")(EqualByValue)

ONE_FOR_ALL = Every()


@caught_by("check_identity")
def same_instance():
    return ONE_FOR_ALL


@caught_by("check_options")
def loose_option(*, interval: Annotated[int, at_least(1)] = 3):
    return Every(interval)


@caught_by("check_options")
def swallowing(**options):
    return Every(options.get("interval", 3))


COUNTED = []
SINCE = [0]


@caught_by("check_deterministic")
def global_counter():
    def judge(gate, step, evidence):
        COUNTED.append(step.index)
        error, accept = honest(gate, step, evidence)
        return error, accept & (len(COUNTED) % 7 != 0)

    return Gate(judge=judge)


@caught_by("check_deterministic")
def draws_random_numbers():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        return error, error <= gate.threshold * (1 + 0 * torch.rand(()))

    return Gate(judge=judge)


@caught_by("check_fresh_sessions")
def shared_state():
    class SharedState:
        @hookimpl
        def setup(self, run):
            self.sites = (Site(run.depth - 1),)
            SINCE[0] = 0  # a run begins anew, whoever else is in the middle of one
            return Needs(sites=self.sites)

        @hookimpl
        def before_step(self, step):
            SINCE[0] += 1
            return None if SINCE[0] % 3 == 1 else Plan(forecast=self.sites)

    return SharedState()


DRAFTED = [0]


@caught_by("check_aborted_run")
def reset_at_the_end():
    class ResetAtTheEnd:
        @hookimpl
        def setup(self, run):
            self.run, self.sites = run, (Site(run.depth - 1),)
            return Needs(sites=self.sites)

        @hookimpl
        def before_step(self, step):
            return None if DRAFTED[0] % 3 == 0 else Plan(forecast=self.sites)

        @hookimpl
        def commit(self, step, outcome):
            DRAFTED[0] = 0 if step.index + 1 == self.run.num_steps else DRAFTED[0] + 1

    return ResetAtTheEnd()


@caught_by("check_bounded_memory")
def growing_memory():
    seen = []

    def judge(gate, step, evidence):
        seen.append((evidence.computed - evidence.forecast).abs())
        return honest(gate, step, evidence)

    return Gate(judge=judge)
