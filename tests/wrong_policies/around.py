"""Faults around a policy: how it is packaged, and how long its state lives."""

import functools
import time
from typing import Annotated

import attrs
import torch

from foreseer import Needs, Plan, Site, hookimpl
from foreseer.metrics import relative_l2
from foreseer.options import at_least
from foreseer.testing.partners import ReferenceSchedule
from wrong_policies.parts import Every, Gate, caught_by, honest, secant


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


@caught_by("check_declarations")
def misspelt_word():
    policy = Gate()
    policy.decide = "rows"
    return policy


@caught_by("check_declarations")
def number_as_text():
    policy = Every()
    policy.max_draft_steps = "5"
    return policy


@caught_by("check_declarations")
def yes_is_no_bool():
    policy = Every()
    policy.verified = "no"
    return policy


@caught_by("check_declarations")
def declared_by_a_method():
    class DeclaredByAMethod(ReferenceSchedule):
        def max_draft_steps(self):
            return 5

    return DeclaredByAMethod()


@caught_by("check_declarations")
def nearly_declared():
    policy = secant()
    policy.exact_degre = 1
    return policy


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
def loose_option_or_none(*, interval: Annotated[int, at_least(1)] | None = None):
    return Every(3 if interval is None else interval)


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


@caught_by("check_process_untouched")
def draws_random_numbers():
    def judge(gate, step, evidence):
        error = evidence.error(relative_l2, groups=gate.run.groups)
        return error, error <= gate.threshold * (1 + 0 * torch.rand(()))

    return Gate(judge=judge)


@caught_by("check_process_untouched")
def gradients_off():
    class GradientsOff(Every):
        @hookimpl
        def setup(self, run):
            torch.set_grad_enabled(False)
            return super().setup(run)

    return GradientsOff()


@caught_by("check_deterministic")
def budget_of_seconds():
    """Trusts more when the run has been going for long."""

    class BudgetOfSeconds(Gate):
        @hookimpl
        def setup(self, run):
            self.began = time.monotonic()
            return super().setup(run)

        @hookimpl
        def verify(self, step, evidence):
            self.threshold = self.reported = 0.05 if time.monotonic() - self.began < 30 else 0.5
            return super().verify(step, evidence)

    return BudgetOfSeconds()


@caught_by("check_deterministic")
def computes_after_slow_steps():
    class ComputesAfterSlowSteps(Every):
        slow = False

        @hookimpl
        def before_step(self, step):
            return None if self.slow else super().before_step(step)

        @hookimpl
        def commit(self, outcome):
            self.slow = outcome.seconds > 60
            super().commit(outcome)

    return ComputesAfterSlowSteps()


class Some(Every):
    """Forecasts half of the parts, in the order of a set."""

    order = staticmethod(set)

    @hookimpl
    def setup(self, run):
        super().setup(run)
        self.sites = tuple(self.order(self.sites))[: max(1, len(self.sites) // 2)]
        return Needs(sites=self.sites)


@caught_by("check_deterministic")
def half_of_a_set():
    return Some()


@caught_by("check_deterministic")
def a_part_out_of_a_set():
    """The set has texts, which hash alike within a process."""

    class APart(Some):
        def order(self, sites):
            parts = list({f"{site.part} {number}" for site in sites for number in range(9)})
            return [site for site in sites if parts[0].startswith(site.part)]

    return APart()


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


@caught_by("check_bounded_memory")
def cache_of_features():
    @functools.cache
    def size(feature):
        return feature.abs().flatten(1).sum(1)

    def judge(gate, step, evidence):
        size(evidence.computed)
        return honest(gate, step, evidence)

    return Gate(judge=judge)


class Notebook:
    def __init__(self):
        self.pages = {}


NOTEBOOK = Notebook()


@caught_by("check_bounded_memory")
def notebook_of_the_module():
    class KeepsANotebook(Gate):
        @hookimpl
        def verify(self, step, evidence):
            NOTEBOOK.pages[len(NOTEBOOK.pages)] = evidence.computed - evidence.forecast
            return super().verify(step, evidence)

    return KeepsANotebook()
