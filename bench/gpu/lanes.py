"""What is timed on which model: the papers' settings, and how many of 50 steps they computed. Gates are forced
to that: everything that a gate costs is real, and what it decides is a fixed pattern.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import attrs
import torch

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.options import at_least, checked
from foreseer.outcome import Outcome
from foreseer.plugins import Part
from foreseer.reading import Written, reads
from foreseer.registry import PolicySpec, parse_policy
from foreseer.types import Evidence, Needs, Plan, Run, Step, Verdict

__all__ = ["FORCED", "LANES", "ForcedGate", "Lane", "forced", "lane_of"]

OF = 50
LANES = ("taylorseer-5", "taylorseer-5-last", "taylorseer-5-residual", "agreement", "cg_taylor", "speca", "first_block_cache")
"""What is timed where nothing is named. ``taylorseer-6``, ``-7-last`` and so on are lanes too."""

_TAYLORSEER = re.compile(r"taylorseer-([2-9])(-last|-residual)?")
_TARGETS = {None: "modules", "-last": "last_block", "-residual": "residual"}


@attrs.define(eq=False)
class ForcedGate:
    """Gate: another gate's plan and evidence, and in the place of its verdict one that has ``computed`` of
    every ``of`` steps computed.

    The draft of step k is rejected where fewer steps were computed so far than ``computed * (k + 1) // of``.
    Steps that the gate computes without a draft count, so that a run of ``of`` steps computes exactly
    ``computed``, unless the gate's own are more. All rows meet one fate.

    Attributes:
        gate: The real gate. It measures its error on the device, and the error goes into the report.
        computed: Steps to compute, of every ``of``.
        of: See ``computed``.
    """

    gate: object
    computed: int
    of: int
    _part: Part = attrs.field(default=attrs.Factory(lambda self: Part(self.gate), takes_self=True), init=False, repr=False)
    _so_far: int = attrs.field(default=0, init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what the gate records."""
        return self._part.setup(run)

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        """Plan as the gate does."""
        return self._part.before_step(step)

    @hookimpl
    def verify(self, step: Step, evidence: Evidence) -> Verdict | None:
        """Let the gate judge, and keep its error."""
        verdict = self._part.verify(step, evidence)
        if verdict is None:
            return None
        accept = self._so_far >= self.computed * (step.index + 1) // self.of
        return Verdict(verdict.error, torch.full_like(verdict.accept, accept), verdict.threshold)

    @hookimpl
    def commit(self, step: Step, outcome: Outcome) -> None:
        """Count."""
        self._so_far += outcome.full
        self._part.commit(step, outcome)


def _named(policy: Any) -> Any:
    """Return a policy's text together with the policy."""
    if not isinstance(policy, str) or isinstance(policy, Written):
        return policy
    return Written(policy, parse_policy(policy))


@reads(policy=_named)
@checked
def forced(*, policy: str, computed: Annotated[int, at_least(0)], of: Annotated[int, at_least(1)]) -> tuple[object, ...]:
    """Build a policy whose gate's verdicts are forced.

    Args:
        policy: A policy with a gate, as on the command line.
        computed: Steps to compute, of every ``of``; no more than ``of``.
        of: See ``computed``.

    Raises:
        OptionError: ``computed`` is out of range, or the policy has no gate.
    """
    if computed > of:
        raise OptionError(f"forced: computed={computed} is out of range; write a whole number from 0 to of={of}")
    plugins = _named(policy).value()
    if not any(hasattr(plugin, "verify") for plugin in plugins):
        raise OptionError(f"forced: policy={policy!r} judges nothing; name a policy with a gate, such as 'speca'")
    return tuple(ForcedGate(plugin, computed, of) if hasattr(plugin, "verify") else plugin for plugin in plugins)


@attrs.frozen
class Lane:
    """A policy on a model.

    Attributes:
        name: As on the command line.
        spec: The policy.
        streams: As in `foreseer.attach`; of effect where a step has two calls.
        source: Where the rate of forced decisions is from; empty where nothing is forced.
        share: About how much of the steps it computes, for estimates of time.
    """

    name: str
    spec: PolicySpec
    streams: Literal["independent", "follow_first"] = "independent"
    source: str = ""
    share: float = 0.5


WARM_UP = {"flux-dev": 3, "dit-xl-2-256": 2, "hunyuan-video": 1, "wan-1.3b": 1}
"""TaylorSeer's, in its released code."""

_COUNTED = "counted by the authors at threshold 0.08 (arXiv 2508.02240, plot_exceed.py)"
_SPEED_UP = "not published; the number of steps that {}x comes from, where an accepted step costs {} of a full one"
_ALPHA = "acceptance rate {} %: what the paper's S = 1 / (1 - a + a g) gives for its {}x and g = {} % (arXiv 2509.11628)"
_CG = "cg_taylor:first_order={},warmup_steps={}"
_SPECA = "speca:max_order={},warmup_steps={},max_draft_steps=None"
_PARA = "not published; the number of steps that {} (ParaAttention, in diffusers' docs, para_attn.md) comes from, where a reused step costs 1/{}"
FORCED: dict[str, dict[str, tuple[str, int, str]]] = {
    "cg_taylor": {
        "flux-dev": (_CG.format(1, 5), 15, _COUNTED),
        "dit-xl-2-256": (_CG.format(3, 3), 20, _SPEED_UP.format("the paper's 2.36", "1/28")),
        "hunyuan-video": (_CG.format(2, 6), 14, _SPEED_UP.format("the authors' logged 3.32", "1/60")),
        "wan-1.3b": (_CG.format(3, 6), 11, _SPEED_UP.format("the paper's 4.14", "1/60")),
    },
    "speca": {
        "flux-dev": (_SPECA.format(2, 3), 7, _ALPHA.format(86, "6.34", "1.75")),
        "dit-xl-2-256": (_SPECA.format(4, 3), 5, _ALPHA.format(89, "7.3", "3.5")),
        "hunyuan-video": (_SPECA.format(1, 1), 7, _ALPHA.format(85, "6.16", "1.67")),
    },
    "first_block_cache": {
        "flux-dev": ("first_block_cache:threshold=0.08", 32, _PARA.format("26.36 s to 17.01 s at threshold 0.08", 57)),
        "hunyuan-video": ("first_block_cache:threshold=0.06", 31, _PARA.format("3675.71 s to 2271.06 s", 60)),
    },
}
"""By policy and model: a gate's published setting, the steps that it computes of 50, and where that is from."""


def lane_of(name: str, model: str, steps: int = OF) -> Lane | None:
    """Return a lane of one model; None where nothing was published of that policy on that model.

    Args:
        name: One of `LANES`, ``taylorseer-N`` of another interval, or an installed policy with its options,
            which then decides for itself.
        model: A model's name.
        steps: Of the run: what has a number of steps computes as large a part of them.

    Raises:
        OptionError: The name is neither, or an option is wrong.
        PluginError: The policy is not installed or cannot be loaded.
    """
    if name in FORCED:
        if model not in FORCED[name]:
            return None
        policy, computed, source = FORCED[name][model]
        parse_policy(policy)  # what is not installed is told before anything is timed
        spec = PolicySpec("forced", forced, {"policy": policy, "computed": computed, "of": OF})
        return Lane(name, spec, "follow_first", source, computed / OF)
    if name == "agreement":  # as many as taylorseer-5, of which it moves the places
        spec = parse_policy(f"agreement:steps={max(2, round(0.24 * steps))}")
        return Lane(name, spec, "follow_first", share=0.24)
    if found := _TAYLORSEER.fullmatch(name):
        options = f"interval={found[1]},max_order=1,warmup_steps={WARM_UP[model]},target={_TARGETS[found[2]]}"
        return Lane(name, parse_policy(f"taylorseer:{options}"), "follow_first", share=1 / int(found[1]) + WARM_UP[model] / OF)
    if ":" not in name:
        advice = f"write one of {', '.join(LANES)}, or a policy with its options, such as 'speca:threshold=0.2'"
        raise OptionError(f"policies={name!r} is unknown; {advice}")
    return Lane(name, parse_policy(name))
