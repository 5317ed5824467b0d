"""How far open loop was off: chosen pairs run with the model, on other samples, and what the replay promised
beside what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.adapters.identity import identity_of
from foreseer.bench.charts import front
from foreseer.bench.harness import Tell, run_benchmark
from foreseer.bench.settings import BenchSettings
from foreseer.bench.source import Drawing, Source, loaded
from foreseer.bench.workload import how_many
from foreseer.columns import Column
from foreseer.errors import OptionError
from foreseer.psnr import likeness_of
from foreseer.registry import PolicySpec, parse_policy
from foreseer.workbench.predictors import predictor_named
from foreseer.workbench.replay import Score
from foreseer.workbench.replay_gates import pair_spec, with_predictor
from foreseer.workbench.schedules import schedule_from
from foreseer.workbench.trace import Trace

__all__ = ["CLOSED", "Measured", "best_scores", "choose_scores", "measure"]

Array = NDArray[np.float64]

Figures = dict[str, Any]


def _both(title: str, key: str, form: str) -> Column[Figures]:
    def cell(figures: Figures) -> str:
        values = (figures[f"{key}_predicted"], figures[key])
        return " / ".join(format(value, form) for value in values if value is not None)

    return Column(title, "", lambda figures: figures[key], cell)


CLOSED: tuple[Column[Figures], ...] = (
    _both("steps", "computed", ".1f"),
    _both("latent error", "latent_error", ".3g"),
    Column("ratio", "", lambda figures: figures["ratio"], ".2f"),
    _both("PSNR", "psnr", ".1f"),
    _both("worst", "psnr_worst", ".1f"),
    Column("broken", "", lambda figures: figures["broken"] or None, "d"),
)
"""Of `Measured.figures`, as predicted / measured."""


@attrs.frozen(eq=False, kw_only=True)
class Measured:
    """One pair, promised and measured.

    Attributes:
        score: What the replay found.
        predicted: ``(S,)`` predicted error of the final latent over its norm; empty where the trace has no
            sensitivities of this site.
        error: ``(N,)`` measured error of the final latent over its norm, on the N other samples.
        psnr: ``(N,)`` measured PSNR in dB of the decoded images; infinite where a sample is that of full
            computation, NaN where it is broken, that is not finite.
        cost: Computed steps, mean over the samples.
    """

    score: Score
    predicted: Array
    error: Array
    psnr: Array
    cost: float

    def figures(self) -> Figures:
        """Return plain data, one line of a table. What is not known is None."""
        promised, measured, error = self.score.figures(), likeness_of(self.psnr), float(self.error.mean())
        predicted = float(self.predicted.mean()) if len(self.predicted) else None
        return {
            "name": self.score.name,
            "computed_predicted": self.score.cost,
            "computed": self.cost,
            "latent_error_predicted": predicted,
            "latent_error": error,
            "ratio": None if predicted is None or error == 0 else predicted / error,
            "psnr_predicted": promised["psnr_mean"],
            "psnr": measured.mean,
            "psnr_worst_predicted": promised["psnr_worst"],
            "psnr_worst": measured.worst,
            "broken": measured.broken,
        }


def choose_scores(scores: Sequence[Score], asked: Sequence[str]) -> list[Score]:
    """Read what is to be measured: one number for the best, or names as the table prints them. Raises
    `OptionError` for a name that is not there.
    """
    if len(asked) == 1 and asked[0].isdecimal():
        if int(asked[0]) < 1:
            raise OptionError(f"closed_loop={asked[0]!r} is out of range; write a whole number >= 1, or names from the table")
        return best_scores(scores, int(asked[0]))
    names = {score.name: score for score in scores}
    for name in asked:
        if name not in names:
            raise OptionError(f"closed_loop={name!r} is not in the table; write a whole number, or one of {'; '.join(names)}")
    return [names[name] for name in dict.fromkeys(asked)]


def best_scores(scores: Sequence[Score], count: int) -> list[Score]:
    """Return the best: those that no other beats in both computed steps and predicted error, and of them
    ``count`` spread evenly from cheap to dear.

    The error is that of the final latent where it is predicted, else that of the feature. What computes
    everything is left out.
    """

    def error(score: Score) -> float:
        return float(score.final.mean() if len(score.final) else score.errors.mean())

    able = [score for score in scores if error(score) > 0]
    best = front([(score.cost, error(score)) for score in able], lower_x=True, lower_y=True)
    places = np.linspace(0, len(best) - 1, min(count, len(best))).round().astype(int)
    return [able[best[place]] for place in np.unique(places)]


def measure(
    trace: Trace,
    scores: Sequence[Score],
    out: Path,
    *,
    workload: str | Drawing = "dit",
    samples: int | None = None,
    batch: int | None = None,
    seed: int = 1,
    tell: Tell = lambda what, done, total: None,
) -> list[Measured]:
    """Run scores with the model, by the harness of the benchmarks; nothing is timed.

    Args:
        trace: What the scores are of.
        scores: What to run.
        out: Folder of the benchmark's results; the same call goes on with what is there.
        workload: With the recorded model; a text is the name of one.
        samples: How many samples. None for 32; of a pipeline with prompts, each prompt once.
        batch: How many of them are drawn together. None for 16; of a pipeline with prompts, one.
        seed: Of the noises; another than the recorded one, so that the samples are others.
        tell: Told how far it is.

    Raises:
        OptionError: The workload's model is not the recorded one, the seed is, or an option is wrong.
    """
    if seed == trace.seed:
        raise OptionError(f"seed={seed} is that of the recorded samples, and open loop is to be held against others; write seed={seed + 1}")
    signature = trace.signature
    drawing = Source(workload=workload, dtype=signature.dtype or None) if isinstance(workload, str) else workload
    ready = loaded(drawing)
    model = identity_of(ready.model)
    if signature.model and model != signature.model:
        raise OptionError(f"workload={ready.name!r} is {model}, and the trace was recorded on {signature.model}; write the one that was recorded")
    samples, together = how_many(ready, samples=samples, batch=batch, usual=(32, 16))
    del ready  # the benchmark loads its own
    specs = [_spec_of(score) for score in scores]
    settings = BenchSettings(
        workload=drawing,
        about="What a replay promised, measured on other samples.",
        steps=trace.num_steps,
        samples=samples,
        batch=(together,),
        seed=seed,
        guidance=signature.guidance,
        repeats=0,
        lanes=tuple(specs),
    )
    lanes = {lane.name: lane for lane in run_benchmark(settings, out, tell=tell).lanes}
    found = []
    for score, spec in zip(scores, specs, strict=True):
        lane = lanes[str(spec)]
        if lane.error:
            raise OptionError(f"{score.name!r} failed on the model: {lane.error}")
        figures = {name: np.array([v for unit in lane.units for v in unit.figures[name]], dtype=np.float64) for name in ("latent_error", "psnr")}
        found.append(
            Measured(
                score=score,
                predicted=score.final / trace.final_norm if len(score.final) else score.final,
                error=figures["latent_error"],
                psnr=figures["psnr"],
                cost=float(np.mean([steps for unit in lane.units for steps in unit.steps])),
            )
        )
    return found


def _spec_of(score: Score) -> PolicySpec:
    """The policy that does on the model what was replayed."""
    predictor = predictor_named(score.predictor)
    if score.gate:
        return with_predictor(parse_policy(score.policy), predictor)
    return pair_spec(schedule_from(score.policy), predictor, score.site)
