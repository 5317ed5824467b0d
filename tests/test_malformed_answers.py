"""Laws of policies that answer what the contract forbids: an error that says so, or, with ``on_error="compute"``, a computed step and a word."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import foreseer
from foreseer import Evidence, Needs, Plan, Probe, Run, Site, Verdict, Weights, hookimpl
from foreseer.adapters import ArrayBackbone
from foreseer.policies import taylor

DEPTH, ROWS, STEPS, AT = 3, 2, 10, 5
SITES = (Site(0), Site(DEPTH - 1))


class Gate:
    """Judges every forecast from the third step on. In one step an answer is another."""

    def __init__(self, wrong: dict[str, Callable[..., Any]]) -> None:
        self.wrong, self.step = wrong, 0

    @hookimpl
    def setup(self, run: Run) -> Needs:
        return Needs(sites=SITES, anchors=2)

    @hookimpl
    def before_step(self, step: foreseer.Step) -> Any:
        self.step = step.index
        if step.index == AT and "before_step" in self.wrong:
            return self.wrong["before_step"]()
        return None if step.index < 2 else Plan(forecast=SITES, probe=Probe(0))

    @hookimpl
    def verify(self, evidence: Evidence) -> Any:
        error = (evidence.computed - evidence.forecast).abs().flatten(1).sum(1).float()
        if self.step == AT and "verify" in self.wrong:
            return self.wrong["verify"](error)
        return Verdict(error, torch.ones(ROWS, dtype=torch.bool), 1.0)

    @hookimpl
    def commit(self, outcome: foreseer.Outcome) -> None:
        if outcome.step.index == AT and "commit" in self.wrong:
            self.wrong["commit"]()


class Predictor:
    """Taylor's, but in one step."""

    def __init__(self, wrong: Callable[..., Any]) -> None:
        self.wrong, self.right = wrong, taylor(max_order=1)

    @hookimpl
    def predict_features(self, step: foreseer.Step, sites: Any, history: foreseer.History) -> Any:
        if step.index == AT:
            return self.wrong(sites, history)
        return self.right.predict_features(step=step, sites=sites, history=history)


def fail() -> Any:
    raise ZeroDivisionError("a fault of the policy")


WRONG: dict[str, dict[str, Callable[..., Any]]] = {
    "a verdict that is none": {"verify": lambda error: error},
    "an error that is a number": {"verify": lambda error: Verdict(0.5, error < 1)},  # type: ignore[arg-type]
    "an error of another shape": {"verify": lambda error: Verdict(error[:1], error < 1)},
    "an answer of another dtype": {"verify": lambda error: Verdict(error, (error < 1).float())},
    "a verify that raises": {"verify": lambda error: fail()},
    "a plan that is none": {"before_step": lambda: "compute"},
    "a plan of one site that is no tuple": {"before_step": lambda: Plan(forecast=SITES[0])},  # type: ignore[arg-type]
    "a plan with one answer for all rows": {"before_step": lambda: Plan(forecast=SITES, compute=True)},  # type: ignore[arg-type]
    "a probe that is a number": {"before_step": lambda: Plan(forecast=SITES, probe=0)},  # type: ignore[arg-type]
    "drafts that are none": {"predict_features": lambda sites, history: "zero"},
    "a plan of another site": {"before_step": lambda: Plan(forecast=(Site(1),))},
    "a plan with too many rows": {"before_step": lambda: Plan(forecast=SITES, compute=(True,) * 5)},
    "a probe that is not there": {"before_step": lambda: Plan(forecast=SITES, probe=Probe(7))},
    "a before_step that raises": {"before_step": fail},
    "a commit that raises": {"commit": fail},
    "drafts that lack a site": {"predict_features": lambda sites, history: {sites[0]: Weights(np.zeros(history.anchors.shape))}},
    "drafts that are numbers": {"predict_features": lambda sites, history: dict.fromkeys(sites, 1.0)},
    "weights of another shape": {"predict_features": lambda sites, history: dict.fromkeys(sites, Weights(np.zeros((1, 9))))},
    "weights in float32": {"predict_features": lambda sites, history: dict.fromkeys(sites, Weights(np.zeros(history.anchors.shape, np.float32)))},
    "a draft of another shape": {"predict_features": lambda sites, history: dict.fromkeys(sites, torch.zeros(ROWS, 1))},
    "a draft of another dtype": {"predict_features": lambda sites, history: dict.fromkeys(sites, torch.zeros(ROWS, 4, dtype=torch.float16))},
    "a predict_features that raises": {"predict_features": lambda sites, history: fail()},
}


def session(wrong: dict[str, Callable[..., Any]], on_error: Any) -> foreseer.Session:
    host = ArrayBackbone(lambda site, step: np.full((ROWS, 4), 1.0 + 0.01 * step), depth=DEPTH)
    predictor: Any = (lambda: Predictor(wrong["predict_features"])) if "predict_features" in wrong else (lambda: taylor(max_order=1))
    spec = foreseer.policy(lambda: (Gate(wrong), predictor()))
    return foreseer.Session(host, spec, Run(DEPTH, ROWS, (0, 1), STEPS, None, None, host.sites), on_error=on_error)


@pytest.mark.parametrize("name", list(WRONG))
def test_it_raises_and_says_what_was_wrong(name: str) -> None:
    """Law: one of foreseer's own errors, or the policy's with a note whose it is; in the very step."""
    under = session(WRONG[name], "raise")
    for step in range(AT):
        under.evaluate(step)
    with pytest.raises((foreseer.errors.AnswerError, ZeroDivisionError)):
        under.evaluate(AT)


@pytest.mark.parametrize("name", list(WRONG))
def test_it_is_computed_where_that_was_asked_for(name: str) -> None:
    """Law: the run goes on; that step is computed for all rows (but where it was over already), and the report says which step and what was wrong."""
    under = session(WRONG[name], "compute")
    outputs = [under.evaluate(step) for step in range(STEPS)]
    report = under.finish()
    assert report.computed[AT].all() == ("commit" not in name)
    assert len(report.outcomes) == STEPS
    if "commit" not in name:
        np.testing.assert_array_equal(outputs[AT], np.full((ROWS, 4), 1.0 + 0.01 * AT))
    (warning,) = [sentence for sentence in report.warnings if "was computed instead" in sentence or "raised" in sentence]
    assert warning.startswith(f"step {AT}: ")
    assert not report.computed[AT + 1].any(), "and the next is forecast again"
