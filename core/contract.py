"""What plugins return, checked before it is used."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from foreseer.errors import AnswerError
from foreseer.types import OUTPUT, Needs, Plan, Probe, Run, Site

__all__ = ["check_plan", "features_to_keep", "needs_from"]


MOST_ANCHORS = 1000
"""Computed features that are kept per row and site where nobody knows how many steps there are."""


def needs_from(answers: Iterable[Any]) -> Needs:
    """Return what the answers to ``setup`` come to; each is a `Needs`, several of them, or None.

    Raises:
        AnswerError: One is something else, or keeps nothing.
    """
    several = [n for answer in answers if answer is not None for n in (answer if isinstance(answer, (tuple, list)) else (answer,))]
    for n in several:
        if not isinstance(n, Needs) or not isinstance(n.sites, (tuple, list)):
            raise AnswerError(f"setup gave {n!r}; give a foreseer.Needs, whose sites are a tuple, or None")
        for anchors in n.anchors.values() if isinstance(n.anchors, Mapping) else (n.anchors,):
            if isinstance(anchors, bool) or not isinstance(anchors, int) or anchors < 1:
                raise AnswerError(f"Needs(anchors={anchors!r}) keeps nothing; write a whole number >= 1")
    return Needs.together(several)


def features_to_keep(needs: Needs, run: Run) -> dict[Site, int]:
    """Return for each site to record how many computed features to keep per row: no more than the run has
    steps.
    """
    for site in needs.sites:
        if site not in run.sites and site != OUTPUT:
            offered = ", ".join(map(str, run.sites[:4])) + (" ..." if len(run.sites) > 4 else "")
            raise AnswerError(f"a plugin asks to record {site!r}, which this model does not have; it has {offered or 'none'}")
    most = MOST_ANCHORS if run.num_steps is None else run.num_steps
    return {site: min(needs.at(site), most) for site in needs.sites}


def check_plan(plan: object, run: Run, recorded: Collection[Site]) -> Plan:
    """Return the plan, or raise `AnswerError` if it is none, or cannot be carried out."""
    if not isinstance(plan, Plan):
        raise AnswerError(f"before_step gave a {type(plan).__name__}; give a foreseer.Plan, or None to compute the step")
    for name, value, kinds in (
        ("forecast", plan.forecast, (tuple, list)),
        ("compute", plan.compute, (tuple, list)),
        ("probe", plan.probe, (Probe, type(None))),
    ):
        if not isinstance(value, kinds):
            raise AnswerError(f"Plan.{name} is {value!r}; give {'a foreseer.Probe, or None' if name == 'probe' else 'a tuple'}")
    for site in plan.forecast:
        if site not in recorded:
            raise AnswerError(f"the plan forecasts {site!r}, which nothing asked to record; name it in Needs(sites=...) of setup")
    if plan.compute and len(plan.compute) != run.rows:
        raise AnswerError(f"Plan.compute has {len(plan.compute)} entries; give one for each of the {run.rows} rows, or none")
    probe = plan.probe
    if OUTPUT in plan.forecast and probe is not None and probe.on == "draft":
        raise AnswerError("the plan forecasts the output and probes a block on its draft input, but then no block has one; probe on the input")
    if probe is not None and not 0 <= probe.block < run.depth:
        raise AnswerError(f"the plan probes block {probe.block}; this model has blocks 0 to {run.depth - 1}")
    if probe is not None and probe.on == "input" and plan.forecast and Site(probe.block) not in plan.forecast:
        raise AnswerError(f"a probe on the input of block {probe.block} is judged by its output; add {Site(probe.block)!r} to forecast")
    return plan
