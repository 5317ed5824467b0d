"""Laws of predictors as options of gates, and of two side by side."""

from __future__ import annotations

from typing import Any

import pytest

from foreseer import OptionError, PluginError, Run, Site, Step, hookimpl
from foreseer.policies import BlockWise, predictor_from, taylor

RUN = Run(depth=3, rows=1, groups=(0,), num_steps=9, sites=tuple(Site(block) for block in range(3)))


class Unable:
    """Needs nothing, promises nothing, and cannot forecast yet."""

    @hookimpl
    def predict_features(self) -> None:
        return None


class Able(Unable):
    """Forecasts whatever is asked."""

    linear = True

    @hookimpl
    def predict_features(self, sites: Any) -> Any:
        return dict.fromkeys(sites, "weights")


class Counts:
    """No predictor."""

    @hookimpl
    def commit(self) -> None:
        pass


def needy(*, scale: float) -> Able:
    return Able()


@pytest.mark.parametrize("predictor", [Able, lambda: Able(), lambda: (Able(),)])
def test_a_factory_of_one_predictor_is_a_predictor(predictor: Any) -> None:
    assert isinstance(predictor_from(predictor, max_order=1), Able)


@pytest.mark.parametrize(
    ("predictor", "error", "says"),
    [
        (3, PluginError, r"predictor=3 is not a factory; pass its name"),
        (lambda: (Able(), Counts()), PluginError, r"did not build one plugin with predict_features"),
        (lambda: (Counts(), Able()), PluginError, r"did not build one plugin with predict_features"),
        (lambda: (Able(), Able()), PluginError, r"did not build one plugin with predict_features"),
        (Counts, PluginError, r"did not build one plugin with predict_features"),
        (needy, OptionError, r"'needy' needs the option 'scale', which has no default"),
    ],
)
def test_what_is_no_predictor_is_refused(predictor: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        predictor_from(predictor, max_order=1)


@pytest.mark.parametrize(
    ("first", "last", "degree", "linear"),
    [
        (taylor(max_order=0), taylor(max_order=2), 0, True),
        (taylor(max_order=1), Able(), None, True),
        (taylor(max_order=1), Unable(), None, False),
        (Unable(), taylor(max_order=1), None, False),
    ],
)
def test_two_promise_what_both_promise(first: Any, last: Any, degree: int | None, linear: bool) -> None:
    both = BlockWise(((0, first), (-1, last)))
    assert both.exact_degree == degree
    assert both.linear is linear


def test_two_forecast_where_both_are_able() -> None:
    """Law: each its own site; None as soon as one is not able, whichever."""
    sites, history = (Site(0), Site(2)), None
    for pair, drafts in (((Able(), Able()), dict.fromkeys(sites, "weights")), ((Able(), Unable()), None), ((Unable(), Able()), None)):
        both: Any = BlockWise(((0, pair[0]), (-1, pair[1])))
        assert both.setup(RUN).anchors == {Site(0): 1, Site(2): 1}
        assert both.predict_features(Step(3), sites, history) == drafts
