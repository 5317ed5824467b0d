"""What is looked at to judge a draft, and what a gate answers. `R` is the number of rows of a call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import attrs
from torch import Tensor

from foreseer.errors import ContractError
from foreseer.site import Site

if TYPE_CHECKING:
    from foreseer.metrics import Metric

__all__ = ["Evidence", "Probe", "Verdict"]


@attrs.frozen(init=False)
class Probe:
    """The one place that is looked at to judge a draft.

    Args:
        block: The block whose output it is, 0..L-1; or a `Site`: that of a residual, which is computed as its
            last block is, or a place in front of block 0, which costs no block.
        on: As below.
        use: As below.

    Attributes:
        site: The place.
        on: ``"input"``: blocks 0..block run on the real input, and the work is kept when rows are rejected
            (CG-Taylor). ``"draft"``: that block alone runs, on its forecast input; on rejection the work is
            lost (SpeCa).
        use: What goes on behind an accepted draft probe: ``"forecast"``, or what the block ``"computed"``
            (FeatFix, arXiv 2607.27842).
    """

    site: Site
    on: Literal["input", "draft"] = "input"
    use: Literal["forecast", "computed"] = "forecast"

    def __init__(self, block: int | Site, on: Literal["input", "draft"] = "input", use: Literal["forecast", "computed"] = "forecast") -> None:
        self.__attrs_init__(block if isinstance(block, Site) else Site(block), on, use)

    @property
    def block(self) -> int:
        """The last block that runs for it; -1 for a place in front of block 0."""
        return self.site.block

    @functools.cached_property
    def resumed(self) -> frozenset[Site]:
        """What stands in for all that ran for a probe on the input, where rows are rejected."""
        return frozenset((Site(self.block),) if self.on == "input" and self.block >= 0 else ())


@attrs.frozen(eq=False)
class Evidence:
    """What a gate judges: what was found at the probed place, and what it is held against.

    Attributes:
        site: The probed place.
        computed: ``(R, ...)`` what is there in this step; on its real input or on its draft input, as the
            probe says. Of several streams (text and image) the image's.
        forecast: ``(R, ...)`` same shape and dtype: what the forecast says; None where the plan does not
            forecast the place.
        vote: Where several processes share a sample's tokens, and these tensors hold this process's: adds a
            tensor of any shape up over all of them. None where there is nobody to ask.
        before: ``(R, ...)`` what was there in the step before, whether that was computed or forecast; NaN
            where it was not seen. None where `Needs.evidence` does not name the place.
        anchor: Likewise, what was there in the last step in which the row was computed.
        others: The same of the other places that `Needs.evidence` names and that were reached on the way to
            this one: see `at`.
    """

    site: Site
    computed: Tensor = attrs.field(repr=False)
    forecast: Tensor | None = attrs.field(repr=False)
    vote: Callable[[Tensor], Tensor] | None = attrs.field(default=None, repr=False)
    before: Tensor | None = attrs.field(default=None, repr=False)
    anchor: Tensor | None = attrs.field(default=None, repr=False)
    others: Mapping[Site, Evidence] = attrs.field(factory=dict, repr=False)

    def at(self, site: Site) -> Evidence:
        """Return what was found at another place on the way to the probed one (DiCache compares two).

        Raises:
            ContractError: `Needs.evidence` does not name it, or it was not reached.
        """
        if site == self.site:
            return self
        if site not in self.others:
            raise ContractError(f"nothing of {site} was seen before {self.site} was judged: name it in Needs(evidence=...) of setup, and probe behind it")
        return attrs.evolve(self.others[site], vote=self.vote)

    def error(self, metric: Metric, *, groups: Sequence[int] | None = None, against: Literal["forecast", "before", "anchor"] = "forecast") -> Tensor:
        """Return the error per row, ``(R,)`` float32, of the whole sample, whichever part of its tokens this
        process holds.

        This is the way to an error in a gate. ``metric(evidence.computed, evidence.forecast)`` is the same on
        one process; on several it is this process's tokens only, and the session then takes the strictest of
        all verdicts. A method, and not one more argument to hand on, because an argument that only matters on
        several GPUs is the one that is forgotten.

        Args:
            metric: One of `foreseer.metrics`, or your own `foreseer.metrics.Metric`.
            groups: ``(R,)`` which rows to pool; None for every row alone.
            against: ``"forecast"``: how far the forecast is from what was computed. ``"before"``,
                ``"anchor"``: how far the place has moved since, relative to what was there then, as in every
                published gate of this kind. NaN, which the session rejects, where nothing was seen then.

        Raises:
            ContractError: There is no forecast of the place, or `Needs.evidence` does not name it.
        """
        if against == "forecast":
            if self.forecast is None:
                raise ContractError(f"the plan does not forecast {self.site}: add it to Plan.forecast, or compare against='before' or 'anchor'")
            return metric(self.computed, self.forecast, groups=groups, vote=self.vote)
        then: Tensor | None = getattr(self, against)
        if then is None:
            raise ContractError(f"nothing of {self.site} was kept to compare with: name it in Needs(evidence=...) of setup")
        return metric(then, self.computed, groups=groups, vote=self.vote)


@attrs.frozen(eq=False)
class Verdict:
    """A gate's answer.

    Attributes:
        error: ``(R,)`` float32, non-negative. Where it is not finite the session rejects the row, whatever
            ``accept`` says.
        accept: ``(R,)`` bool: True where the draft may be used.
        threshold: What the error was held against; for the report.
    """

    error: Tensor = attrs.field(repr=False)
    accept: Tensor = attrs.field(repr=False)
    threshold: float = float("nan")
