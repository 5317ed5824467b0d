"""What two processes run, and what one process runs to compare with."""

import attrs
import torch

import foreseer
from foreseer import Needs, Plan, Probe, Site, Verdict, hookimpl
from foreseer.metrics import relative_l1
from foreseer.policies import taylor
from foreseer.policies._cg_taylor import FirstBlockGate


@attrs.frozen
class Case:
    """One run. `policy` as on the command line, or the name of one of the gates below."""

    policy: str
    pipeline: str = "FluxPipeline"
    steps: int = 10
    batch: int = 1
    kind: str = "pipeline"
    fault: str = ""


class LocalErrors:
    """CG-Taylor's gate, which also notes the errors on this process's tokens alone."""

    seen: list[torch.Tensor] = []  # noqa: RUF012

    def __init__(self, threshold):
        self._gate = FirstBlockGate(threshold, 3)

    @hookimpl
    def setup(self, run):
        self._groups = run.groups
        return self._gate.setup(run)

    @hookimpl
    def before_step(self, step):
        return self._gate.before_step(step)

    @hookimpl
    def verify(self, evidence):
        LocalErrors.seen.append(relative_l1(evidence.computed, evidence.forecast, groups=self._groups))
        return self._gate.verify(evidence)

    @classmethod
    def policy(cls, threshold):
        return lambda: (cls(threshold), taylor(max_order=1))


class OwnArithmetic:
    """A gate that has never heard of a vote: it sums up by hand what it sees."""

    @hookimpl
    def setup(self, run):
        self.sites = (Site(0), Site(run.depth - 1))
        return Needs(sites=self.sites)

    @hookimpl
    def before_step(self, step):
        return None if step.index < 3 else Plan(forecast=self.sites, probe=Probe(0))

    @hookimpl
    def verify(self, evidence):
        error = (evidence.computed - evidence.forecast).flatten(1).norm(dim=1) / evidence.computed.flatten(1).norm(dim=1)
        return Verdict(error, error < OLD_THRESHOLD, OLD_THRESHOLD)


OLD_THRESHOLD = 0.3


class FirstRow:
    """Computes the first row in every step, and forecasts the others from the third step on."""

    @hookimpl
    def setup(self, run):
        self.sites, self.rows = (Site(run.depth - 1),), run.rows
        return Needs(sites=self.sites)

    @hookimpl
    def before_step(self, step):
        return None if step.index < 2 else Plan(forecast=self.sites, compute=(True, *(False,) * (self.rows - 1)))


def policy_of(case):
    """The policy of a case: by name, or a factory."""
    if case.policy == "first row":
        return lambda: (FirstRow(), taylor(max_order=1))
    if case.policy == "own arithmetic":
        return lambda: (OwnArithmetic(), taylor(max_order=1))
    return foreseer.registry.parse_policy(case.policy)


PIPELINES = {
    "flux_cg_taylor": Case("cg_taylor:threshold=0.3", batch=2),
    "flux_cg_taylor_batch": Case("cg_taylor:threshold=0.3,decide=batch", batch=2),
    "flux_cg_taylor_output": Case("cg_taylor:threshold=0.3,target=output", batch=2),
    "flux_speca": Case("speca:threshold=0.13,threshold_decay=1", batch=2),
    "flux_speca_next_step": Case("speca:threshold=0.01,threshold_decay=1,on_reject=next_step,metric=cosine", batch=2),
    "flux_taylorseer": Case("taylorseer:interval=3"),
    "flux_true_cfg": Case("cg_taylor:threshold=0.24", pipeline="FluxPipeline:true_cfg"),
    "wan_cg_taylor": Case("cg_taylor:threshold=0.41", pipeline="WanPipeline"),
    "wan_speca": Case("speca:threshold=0.27,threshold_decay=1,target=last_block", pipeline="WanPipeline"),
    "wan_taylorseer": Case("taylorseer:interval=3", pipeline="WanPipeline"),
    "qwen_cg_taylor": Case("cg_taylor:threshold=0.3", pipeline="QwenImagePipeline", batch=2),
}
"""Runs that must be what one process makes of them."""
OTHERS = {
    "flux_late": Case("cg_taylor:threshold=0.3", batch=2, kind="late"),
    "flux_own_arithmetic": Case("own arithmetic", batch=2),
    "flux_between": Case("cg_taylor", kind="between"),
    "sound": Case("cg_taylor:threshold=0.01", kind="faulty"),
    "faulty_last_block": Case("cg_taylor:threshold=0.01", kind="faulty", fault="last block"),
    "faulty_assembly": Case("speca:threshold=0.2,threshold_decay=1", pipeline="DiTPipeline", batch=2, kind="assembly"),
    "sound_rows": Case("first row", kind="faulty"),
    "faulty_rows": Case("first row", kind="faulty", fault="rows"),
}
CASES = {**PIPELINES, **OTHERS}
