"""What is timed on which model: the papers' settings, and how many of 50 steps they computed."""

from __future__ import annotations

from typing import Literal

import attrs

from foreseer.bench.gpu.forced import forced
from foreseer.errors import OptionError
from foreseer.registry import PolicySpec, parse_policy

__all__ = ["LANES", "Lane", "lane_of"]

OF = 50
LANES = ("taylorseer-5", "taylorseer-6", "taylorseer-5-last", "taylorseer-6-last", "cg_taylor", "speca")


@attrs.frozen
class Lane:
    """A policy on a model.

    Attributes:
        name: As on the command line.
        spec: The policy.
        streams: As in `foreseer.attach`; of effect where a step has two calls.
        source: Where the rate of forced decisions is from; empty where nothing is forced.
    """

    name: str
    spec: PolicySpec
    streams: Literal["independent", "follow_first"] = "independent"
    source: str = ""


@attrs.frozen
class _Forced:
    """A gate's published setting on one model.

    Attributes:
        policy: As on the command line.
        computed: Steps computed of 50.
        source: Of ``computed``.
    """

    policy: str
    computed: int
    source: str


WARM_UP = {"flux-dev": 3, "dit-xl-2-256": 2, "hunyuan-video": 1, "wan-1.3b": 1}
"""TaylorSeer's, in its released code."""

_SPEED_UP = "not published; the number of steps that {speed_up}x comes from, where an accepted step costs {gamma} of a full one"
CG_TAYLOR = {
    "flux-dev": _Forced("cg_taylor:first_order=1,warmup_steps=5", 15, "counted by the authors at threshold 0.08 (arXiv 2508.02240, plot_exceed.py)"),
    "dit-xl-2-256": _Forced("cg_taylor:first_order=3,warmup_steps=3", 20, _SPEED_UP.format(speed_up="the paper's 2.36", gamma="1/28")),
    "hunyuan-video": _Forced("cg_taylor:first_order=2,warmup_steps=6", 14, _SPEED_UP.format(speed_up="the authors' logged 3.32", gamma="1/60")),
    "wan-1.3b": _Forced("cg_taylor:first_order=3,warmup_steps=6", 11, _SPEED_UP.format(speed_up="the paper's 4.14", gamma="1/60")),
}

_ALPHA = "acceptance rate {rate}: what the paper's S = 1 / (1 - a + a g) gives for its {speed_up}x and g = {gamma} (arXiv 2509.11628)"
_SPECA = "speca:max_order={order},warmup_steps={warm_up},max_draft_steps=None"
SPECA = {
    "flux-dev": _Forced(_SPECA.format(order=2, warm_up=3), 7, _ALPHA.format(rate="86 %", speed_up="6.34", gamma="1.75 %")),
    "dit-xl-2-256": _Forced(_SPECA.format(order=4, warm_up=3), 5, _ALPHA.format(rate="89 %", speed_up="7.3", gamma="3.5 %")),
    "hunyuan-video": _Forced(_SPECA.format(order=1, warm_up=1), 7, _ALPHA.format(rate="85 %", speed_up="6.16", gamma="1.67 %")),
}


def lane_of(name: str, model: str) -> Lane | None:
    """Return a lane of one model; None where nothing was published of that policy on that model.

    Args:
        name: One of `LANES`, or an installed policy with its options, which then decides for itself.
        model: A model's name.

    Raises:
        OptionError: The name is neither, or an option is wrong.
        PluginError: The policy is not installed or cannot be loaded.
    """
    if name in ("cg_taylor", "speca"):
        found = (CG_TAYLOR if name == "cg_taylor" else SPECA).get(model)
        if found is None:
            return None
        spec = PolicySpec("forced", forced, {"policy": found.policy, "computed": found.computed, "of": OF})
        return Lane(name, spec, "follow_first", found.source)
    if name in LANES:
        interval, last = name.split("-")[1], name.endswith("-last")
        target = "last_block" if last else "modules"
        return Lane(name, parse_policy(f"taylorseer:interval={interval},max_order=1,warmup_steps={WARM_UP[model]},target={target}"), "follow_first")
    if ":" not in name:
        raise OptionError(f"policies={name!r} is unknown; write one of {', '.join(LANES)}, or a policy with its options, such as 'speca:threshold=0.2'")
    return Lane(name, parse_policy(name))
