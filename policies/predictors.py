"""Predictors: how a feature is forecast from those that were computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import attrs

from foreseer.errors import PluginError
from foreseer.hookspecs import hookimpl
from foreseer.listing import load_factory
from foreseer.outcome import Outcome
from foreseer.plugins import Part
from foreseer.registry import build_plugins
from foreseer.spelling import read_spec
from foreseer.types import Drafts, History, Needs, Run, Site, Step, Weights

__all__ = ["BlockWise", "LinearPredictor", "PredictorLike", "predictor_from"]

PredictorLike = str | Callable[..., Any]
"""The name of an installed predictor, options included (``"hicache:scale=0.5"``), or its factory."""


@attrs.frozen(eq=False)
class LinearPredictor:
    """Forecasts every planned site as a weighted sum of its recorded features.

    Attributes:
        weights: ``(anchors, target) -> weights`` of one row: ``anchors`` are the step indices of its computed
            steps, newest first, one or more; ``target`` is the step to forecast; the result has at most
            ``max_order + 1`` entries and no more than ``anchors``.
        max_order: Highest order; ``max_order + 1`` features are kept per site.
        exact_degree: Degree of the polynomials in the step index that are forecast exactly once enough
            anchors exist, or None where nothing is promised. The conformance kit tests it.
        linear: A forecast is linear in the features, by construction.
    """

    linear: ClassVar[bool] = True
    weights: Callable[[tuple[float, ...], float], Sequence[float]]
    max_order: int
    exact_degree: int | None = None

    @hookimpl
    def setup(self) -> Needs:
        """Keep one feature more than the order, at every recorded site."""
        return Needs(anchors=self.max_order + 1)

    @hookimpl
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts:
        """One set of weights per row serves every site: the rows' anchors are the same at all of them."""
        weights = Weights.per_row(self.weights, history.anchors, step.index)
        return dict.fromkeys(sites, weights)


@attrs.frozen(eq=False)
class BlockWise:
    """Two predictors side by side: one for one block's output, one for another's.

    Attributes:
        pairs: ``((block, predictor), ...)``; each predictor plugin implements ``setup`` and
            ``predict_features``. Blocks count from the end if negative; a `Site` stands for itself, and what is
            not known before the run is a function of it.
        exact_degree: What both promise: the lower of their degrees, or None where one promises nothing.
        linear: Whether both are linear.
    """

    pairs: tuple[tuple[int | Site | Callable[[Run], Site], Any], ...]
    _by_site: dict[Site, Part] = attrs.field(factory=dict, init=False, repr=False)
    _counting: list[Part] = attrs.field(factory=list, init=False, repr=False)

    @property
    def exact_degree(self) -> int | None:
        """The lower of the degrees."""
        degrees = [getattr(predictor, "exact_degree", None) for _, predictor in self.pairs]
        promised = [degree for degree in degrees if degree is not None]
        return min(promised) if len(promised) == len(degrees) else None

    @property
    def linear(self) -> bool:
        """Whether both are."""
        return all(getattr(predictor, "linear", False) for _, predictor in self.pairs)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Ask for each predictor's anchors at its own block only, and hand on its notes."""
        anchors: dict[Site, int] = {}
        notes: list[str] = []
        for block, predictor in self.pairs:
            site = block if isinstance(block, Site) else block(run) if callable(block) else Site(block % run.depth)
            part = self._by_site[site] = Part(predictor)
            needs = part.setup(run)
            anchors[site] = needs.most
            notes += needs.notes
        self._counting[:] = [part for part in self._by_site.values() if part.implements("commit")]
        return Needs(anchors=anchors, note=tuple(notes))

    @hookimpl
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts | None:
        """Ask each predictor for its own site; None as soon as one is not able."""
        drafts: dict[Site, Any] = {}
        for site in sites:
            part = self._by_site[site].predict_features(step, (site,), history)
            if part is None:
                return None
            drafts.update(part)
        return drafts

    @hookimpl
    def commit(self, step: Step, outcome: Outcome) -> None:
        """Tell both, for a predictor that counts."""
        for part in self._counting:
            part.commit(step, outcome)


def predictor_from(predictor: PredictorLike, *, max_order: int, warmup_steps: int = 1) -> Any:
    """Build the predictor that a gate was asked to work with.

    Its factory is called with those of ``max_order`` and ``warmup_steps`` that it names and was not given;
    one that names neither is taken as configured already.

    Args:
        predictor: Name of an installed predictor, with or without options, or a factory.
        max_order: Highest order.
        warmup_steps: The gate's warm-up, for predictors that ramp up with it.

    Raises:
        PluginError: Not installed, cannot be imported, or not a predictor.
        OptionError: An option in its name is unknown or out of range.
    """
    given: dict[str, Any] = {}
    factory: Any = predictor
    if isinstance(predictor, str):
        name, given = read_spec(predictor)
        factory = load_factory(name)
    if not callable(factory):
        raise PluginError(f"predictor={predictor!r} is not a factory; pass its name, its class, or `lambda: {type(predictor).__name__}(...)`")
    offered = {"max_order": max_order, "warmup_steps": warmup_steps}
    plugins = build_plugins(factory, given, offered)
    if len(plugins) != 1 or not hasattr(plugins[0], "predict_features"):
        raise PluginError(f"predictor={predictor!r} did not build one plugin with predict_features; name a predictor, such as 'taylor'")
    return plugins[0]
