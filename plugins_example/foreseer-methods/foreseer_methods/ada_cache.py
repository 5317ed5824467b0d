"""AdaCache (arXiv 2411.02397): how far features moved from one computed step to the next says how long they may
be reused.

At each computed step the change since the computed step before, relative and for each step between them, is
looked up in a codebook of gaps. The paper takes L1 norms of one layer; here the norms are L2 and over all sites
that are reused, because inner products of what is kept give them without a look at a tensor. Its motion term
needs the layout of frames and is left out.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

import attrs

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.options import at_least, checked, cites
from foreseer.outcome import Outcome
from foreseer.policies import LinearPredictor, PredictorLike, draft_needs, predictor_from, taylor
from foreseer.policies.drafting import Target
from foreseer.types import Needs, Plan, Run, Site, Step
from foreseer_methods.due_steps import DueSteps
from foreseer_methods.pooled_products import pooled_products

__all__ = ["CodebookOfGaps", "ada_cache", "codebook_from"]

FAST = "0.03:12+0.05:10+0.07:8+0.09:6+0.11:4+1.0:3"


def codebook_from(text: str) -> tuple[tuple[float, int], ...]:
    """Read a codebook: pairs of a change and the gap for changes up to it, both in order.

    Raises:
        OptionError: It is none.

    >>> codebook_from("0.03:12+1.0:3")
    ((0.03, 12), (1.0, 3))
    """
    pairs = [re.fullmatch(r"\s*([\d.eE-]+|inf)\s*:\s*(\d+)\s*", part) for part in text.split("+")]
    try:
        book = tuple((float(pair[1]), int(pair[2])) for pair in pairs if pair)
    except ValueError:
        book = ()
    changes, gaps = [change for change, _ in book], [gap for _, gap in book]
    if len(book) != len(pairs) or sorted(set(changes)) != changes or sorted(gaps, reverse=True) != gaps or min(gaps) < 1 or changes[0] < 0:
        raise OptionError(f"ada_cache: codebook={text!r} is none; write pairs of a rising change and a gap that does not rise, such as {FAST}")
    return book


@attrs.define(eq=False)
class CodebookOfGaps:
    """Schedule: at each computed step, read the steps to the next off a codebook. No probe, and no look at a
    tensor.

    Attributes:
        codebook: ``((change, gap), ...)``, changes rising: the first gap whose change is not exceeded. Above
            the last change the next step is computed.
        warmup_steps: Computed steps at the start; 2 at least, for there to be a change.
        target: What is reused.
        decide: Whether each sample has its gaps, or all rows together.
        max_draft_steps: Most forecasts in a row: one less than the longest gap.
    """

    codebook: tuple[tuple[float, int], ...]
    warmup_steps: int
    target: Target
    decide: Literal["row", "batch"]
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)
    _groups: tuple[int, ...] = attrs.field(default=(), init=False, repr=False)
    _due: DueSteps = attrs.field(factory=lambda: DueSteps(0), init=False, repr=False)
    _computed: list[int] = attrs.field(factory=list, init=False, repr=False)

    @property
    def max_draft_steps(self) -> int:
        """One less than the longest gap."""
        return self.codebook[0][1] - 1

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Keep two features, to compare."""
        needs = draft_needs(run, self.target)
        self._sites, self._due, self._computed = needs.sites, DueSteps(run.rows), [0] * run.rows
        self._groups = run.groups if self.decide == "row" else (0,) * run.rows
        return attrs.evolve(needs, anchors=2, products=True)

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Compute what is due."""
        return self._due.plan(step, self._sites, "warm-up" if step.index < self.warmup_steps else "the codebook's gap is over")

    @hookimpl
    def commit(self, outcome: Outcome) -> None:
        """Look the change up."""
        if not any(outcome.computed) or not outcome.products:
            return
        products, index = pooled_products(outcome.products, self._groups), outcome.step.index

        def gap(row: int) -> int:
            since, self._computed[row] = index - self._computed[row], index
            if index < self.warmup_steps - 1 or since == 0:
                return 1
            (new, both), (_, old) = products[row].tolist()
            change = math.sqrt(max(new - 2 * both + old, 0.0) / old) / since if old > 0 and math.isfinite(new) else math.nan
            return next((steps for limit, steps in self.codebook if change <= limit), 1)

        self._due.commit(outcome, gap)


@cites(
    """@article{kahatapitiya2024adacache,
  title={Adaptive Caching for Faster Video Generation with Diffusion Transformers},
  author={Kahatapitiya, Kumara and Liu, Haozhe and He, Sen and Liu, Ding and Jia, Menglin and Zhang, Chenyang and Ryoo,
  Michael S. and Xie, Tian},
  journal={arXiv preprint arXiv:2411.02397}, year={2024}}"""
)
@checked
def ada_cache(
    *,
    codebook: str = FAST,
    warmup_steps: Annotated[int, at_least(2)] = 2,
    target: Target = "modules",
    decide: Literal["row", "batch"] = "row",
    predictor: PredictorLike = taylor,
) -> tuple[CodebookOfGaps, LinearPredictor]:
    """Reuse for as long as the last change allows, by a codebook (AdaCache, arXiv 2411.02397).

    Without the paper's motion term.

    Args:
        codebook: ``change:gap`` pairs joined by +: a relative change per step (L2, |new - old| / |old| over the
            steps between), and the steps to the next computed one for changes up to it. Above the last the next
            step is computed. The default's ends are the release's; what lies between them is not confirmed. A
            codebook belongs to a model: tune it.
        warmup_steps: Computed steps at the start.
        target: ``"modules"``: every module's raw output before its gate, as published. The others are ours.
        decide: ``"row"``: each sample by its own change. ``"batch"``: one change over all rows, as published.
        predictor: Called with order 0, which is reuse.
    """
    return CodebookOfGaps(codebook_from(codebook), warmup_steps, target, decide), predictor_from(predictor, max_order=0)
