"""What plugins return, checked before it is used."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from foreseer.errors import AnswerError
from foreseer.types import OUTPUT, PLACES, STREAM, Needs, Plan, Probe, Run, Site

__all__ = ["PlanCheck", "check_plan", "features_to_keep", "lacking", "needs_from"]


MOST_ANCHORS = 1000
"""Computed features that are kept per row and site where nobody knows how many steps there are."""


def needs_from(answers: Iterable[Any]) -> Needs:
    """Return what the answers to ``setup`` come to; each is a `Needs`, several of them, or None.

    Raises:
        AnswerError: One is something else, or keeps nothing.
    """
    several = [n for answer in answers if answer is not None for n in (answer if isinstance(answer, (tuple, list)) else (answer,))]
    for n in several:
        if not isinstance(n, Needs) or not isinstance(n.sites, (tuple, list)) or not isinstance(n.evidence, (tuple, list)):
            raise AnswerError(f"setup gave {n!r}; give a foreseer.Needs, whose sites and evidence are tuples, or None")
        for anchors in n.anchors.values() if isinstance(n.anchors, Mapping) else (n.anchors,):
            if isinstance(anchors, bool) or not isinstance(anchors, int) or anchors < 1:
                raise AnswerError(f"Needs(anchors={anchors!r}) keeps nothing; write a whole number >= 1")
    return Needs.together(several)


def features_to_keep(needs: Needs, run: Run) -> dict[Site, int]:
    """Return for each site to record how many computed features to keep per row: no more than the run has
    steps.
    """
    for site in (*needs.sites, *needs.evidence):
        if why := lacking(site, run):
            raise AnswerError(f"a plugin asks {'to record' if site in needs.sites else 'for evidence of'} {site!r}, {why}")
        if site in PLACES and site in needs.sites:
            raise AnswerError(f"a plugin asks to record {site!r}, which lies in front of the model and is never forecast; name it in Needs(evidence=...)")
    most = MOST_ANCHORS if run.num_steps is None else run.num_steps
    return {site: min(needs.at(site), most) for site in needs.sites}


def lacking(site: Site, run: Run) -> str:
    """Say why a run does not have a site; empty if it has."""
    if site.since is not None and STREAM not in run.places:
        return "a residual, and this host does not say what enters a block: its features can be forecast as they are, with since=None"
    if site.since is not None:
        return lacking(site.end, run) or lacking(site.start, run)
    if site == OUTPUT or site in run.sites or site in run.places:
        return ""
    if site in PLACES:
        return f"a place in front of block 0 that this model does not have; it has {', '.join(map(str, run.places)) or 'none'}"
    offered = ", ".join(map(str, run.sites[:4])) + (" ..." if len(run.sites) > 4 else "")
    return f"which this model does not have; it has {offered or 'none'}"


class PlanCheck:
    """`check_plan` for the plans of one policy, which are alike from step to step: what is looked at again is
    what differs from the last plan.

    Args:
        run, recorded, seen: See `check_plan`.
    """

    def __init__(self, run: Run, recorded: Collection[Site], seen: Collection[Site]) -> None:
        self._given = run, recorded, seen
        self._last = Plan()

    def __call__(self, plan: object) -> Plan:
        """Return the plan, or raise `AnswerError`."""
        last, rows = self._last, self._given[0].rows
        if isinstance(plan, Plan) and plan.forecast is last.forecast and isinstance(plan.forecast, tuple):  # the same object has the same sites
            same_probe = plan.probe is last.probe or plan.probe == last.probe
            if same_probe and isinstance(plan.compute, tuple) and len(plan.compute) in (0, rows):
                return plan
        self._last = check_plan(plan, *self._given)
        return self._last


def check_plan(plan: object, run: Run, recorded: Collection[Site], seen: Collection[Site] = ()) -> Plan:
    """Return the plan, or raise `AnswerError` if it is none, or cannot be carried out.

    Args:
        plan: What a schedule or gate answered.
        run: The run.
        recorded: The sites whose features are kept.
        seen: The sites that are kept for evidence.
    """
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
    if len({site.end for site in plan.forecast}) < len(set(plan.forecast)):
        raise AnswerError(f"the plan forecasts one place in two ways: {', '.join(map(str, plan.forecast))}; choose one of them")
    if plan.compute and len(plan.compute) != run.rows:
        raise AnswerError(f"Plan.compute has {len(plan.compute)} entries; give one for each of the {run.rows} rows, or none")
    if plan.probe is not None:
        _check_probe(plan, plan.probe, run, seen)
    return plan


def _check_probe(plan: Plan, probe: Probe, run: Run, seen: Collection[Site]) -> None:
    site = probe.site
    if probe.on == "draft" and any(each.end == OUTPUT for each in plan.forecast):
        raise AnswerError("the plan forecasts the output and probes a block on its draft input, but then no block has one; probe on the input")
    if site not in PLACES and not (isinstance(site.block, int) and 0 <= site.block < run.depth):
        raise AnswerError(f"the plan probes block {site.block}; this model has blocks 0 to {run.depth - 1}")
    if probe.on == "draft" and (site.since is not None or site in PLACES):
        raise AnswerError(f"the plan probes {site} on its draft input, which only the output of a block has; probe on the input")
    if site.part != "block" and site not in PLACES:
        raise AnswerError(f"the plan probes {site}; probe the output of a block, a residual, or a place in front of block 0")
    if probe.on == "input" and plan.forecast and site not in plan.forecast and site not in seen:
        where = "" if site in PLACES else f"add {site!r} to forecast, or "
        raise AnswerError(f"a probe of {site} on its input has nothing to be held against; {where}name it in Needs(evidence=...) of setup")
