"""MagCache (arXiv 2506.09045): reuse what all blocks together add, as long as a table of how its size changes
from step to step says that it stays what it was.

The table, one ratio |R_k| / |R_k-1| a step, is measured once per model. Nothing is looked at while sampling:
ratios, number of steps and options fix every computed step in advance, and the run must know how many steps
it has. The reused residual is not rescaled by the ratios. The paper takes a root of the error; the released
code does not, and neither does this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import attrs
import numpy as np

from foreseer import Needs, OptionError, Plan, Run, Site, Step, hookimpl
from foreseer.options import at_least, at_least_float, checked, cites, fraction
from foreseer.policies import PredictorLike, predictor_from, taylor
from foreseer_methods.mag_ratios import Rescale, Table, read_tables, rescaled

__all__ = ["MagnitudeSchedule", "mag_cache", "mag_computed_steps"]

Whose = Literal["diffusers", "flux", "wan"]


def mag_computed_steps(
    ratios: Sequence[float], *, threshold: float, max_skip: int, retained: int, whose: Whose = "diffusers", start: int = 0
) -> tuple[int, ...]:
    """Return the steps that are computed, of as many as there are ratios: see `mag_cache`.

    Args:
        ratios: ``(T,)`` the table, of as many steps as the run has.
        threshold: As there.
        max_skip: As there.
        retained: Computed steps at the start.
        whose: As there. Of diffusers, sums are in float32.
        start: The first step that there is; it is computed.
    """
    number = np.float32 if whose == "diffusers" else np.float64
    one, limit = number(1), number(threshold)
    ratio, error, skipped, computed = one, one * 0, 0, []
    for step, entry in enumerate(ratios):
        if step < max(retained, start):
            reuse = False
        else:
            ratio, skipped = ratio * number(entry), skipped + 1
            error = error + abs(one - ratio)
            reuse = bool(error < limit if whose == "wan" else error <= limit) and skipped <= max_skip and step > start
            reuse = reuse and not (whose == "flux" and step == 11 and len(ratios) == 28)
        if not reuse:
            ratio, error, skipped = one, one * 0, 0
            computed.append(step)
    return tuple(step for step in computed if step >= start)


@attrs.define(eq=False, kw_only=True)
class MagnitudeSchedule:
    """Schedule: compute the steps in which a table of ratios says that the residual has changed.

    Attributes are the options of `mag_cache`; ``ratios`` by the name of the stream, ``""`` for any.
    """

    ratios: Mapping[str, Table]
    threshold: float
    max_skip: int
    retention: float
    whose: Whose
    rescale: Rescale
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)
    _computed: frozenset[int] = attrs.field(default=frozenset(), init=False, repr=False)

    @property
    def max_draft_steps(self) -> int:
        """As ``max_skip``."""
        return self.max_skip

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Work out the computed steps, and record what all blocks together add."""
        if not self.ratios:
            return Needs(note="mag_cache has no table, so that every step is computed; write ratios=[...], one for each step, or 'flux'")
        if run.num_steps is None:
            raise OptionError("mag_cache is a schedule, and must know how many steps the run has: give the run timesteps= or num_steps=")
        table = self.ratios.get(run.stream, self.ratios.get(""))
        if table is None:
            raise OptionError(f"mag_cache: ratios has tables for {', '.join(self.ratios)} and none for stream {run.stream!r}; write one, or one for '' as well")
        steps = run.start + run.num_steps
        computed = mag_computed_steps(
            rescaled(table, steps, self.rescale),
            threshold=self.threshold,
            max_skip=self.max_skip,
            retained=self._retained(steps, run.stream),
            whose=self.whose,
            start=run.start,
        )
        self._sites, self._computed = (Site(run.depth - 1, since=-1),), frozenset(step - run.start for step in computed)
        return Needs(sites=self._sites)

    def _retained(self, steps: int, stream: str) -> int:
        if self.whose != "wan":
            return int(self.retention * steps + 0.5)
        calls = int(2 * steps * self.retention)  # of both streams in turn, the conditional one first
        return calls // 2 if stream == "uncond" else (calls + 1) // 2

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Compute it, or reuse."""
        return Plan() if step.index in self._computed else Plan(forecast=self._sites)


@cites(
    """@inproceedings{ma2025magcache,
  title={MagCache: Fast Video Generation with Magnitude-Aware Cache},
  author={Ma, Zehong and Wei, Longhui and Wang, Feng and Zhang, Shiliang and Tian, Qi},
  booktitle={NeurIPS}, year={2025}, note={arXiv:2506.09045}}"""
)
@checked
def mag_cache(
    *,
    ratios: Any = None,
    threshold: Annotated[float, at_least_float(0.0)] = 0.06,
    max_skip: Annotated[int, at_least(0)] = 3,
    retention: Annotated[float, fraction] = 0.2,
    whose: Whose = "diffusers",
    rescale: Rescale = "nearest",
    decide: Literal["row", "batch"] = "row",
    max_order: Annotated[int, at_least(0)] = 0,
    predictor: PredictorLike = taylor,
) -> tuple[MagnitudeSchedule, object]:
    """Reuse what all blocks together add, by a table of how its size changes (MagCache, arXiv 2506.09045).

    In every step behind the first ones, ``ratio`` is multiplied by the table's entry and ``|1 - ratio|``
    added to an error; the step is reused while the error is within ``threshold`` and no more than
    ``max_skip`` steps were. A computed step begins both anew. Defaults are those of diffusers 0.42. The
    authors' are threshold .12, retention .2, max_skip 2 for Wan 2.1; .24, .1, 5 for FLUX.

    Args:
        ratios: The table: one ratio > 0 for each step, measured at full computation with
            `foreseer_methods.mag_ratios.mag_calibration`; ``"flux"`` for the published one of FLUX.1-dev; the
            name of a JSON file; or one list for each stream, ``{"cond": [...], "uncond": [...]}``. None
            computes every step, and the report says so.
        threshold: Reuse while the error adds up to no more than this. No unit.
        max_skip: Most reused steps on end ("K").
        retention: Share of the steps at the start that are computed.
        whose: ``"diffusers"``: reuse up to and with the threshold, sums in float32. ``"flux"``: the authors'
            FLUX code, the same in float64, and step 11 of 28 is never reused. ``"wan"``: the authors' Wan
            code, below the threshold only, and ``retention`` is counted in calls of both streams.
        rescale: How a table becomes one of another number of steps: see
            `foreseer_methods.mag_ratios.rescaled`. The released codes take ``"nearest"``.
        decide: Changes nothing: the table decides alike for every sample. For comparisons of several methods
            under one set of options.
        max_order: Order of the forecast of the residual: 0 reuses it, as published.
        predictor: Another predictor of the residual, by name or factory.

    Raises:
        OptionError: The table is none. At setup: the run's number of steps is not known, or there is no table
            for its stream.
    """
    schedule = MagnitudeSchedule(ratios=read_tables(ratios), threshold=threshold, max_skip=max_skip, retention=retention, whose=whose, rescale=rescale)
    return schedule, predictor_from(predictor, max_order=max_order)
