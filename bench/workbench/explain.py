"""`foreseer explain`: one sample drawn again with a policy, to find out which forecast hurt it, what let that
forecast pass, and which stricter setting would have computed the step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from foreseer.bench.fields import check_guidance, whole
from foreseer.bench.harness import Tell
from foreseer.bench.kept_draws import Draw, KeptDraws
from foreseer.bench.lanes import Sampler, Sampling
from foreseer.bench.source import Drawing, Source, loaded, named, source_from
from foreseer.bench.workload import identities_of
from foreseer.document import Document, structured
from foreseer.psnr import psnr
from foreseer.registry import PolicySpec, policy
from foreseer.workbench.explained import Caught, Explained, Likeness, Replaced, StepAccount
from foreseer.workbench.gauge import NotFiniteError
from foreseer.workbench.shadowing import Shadow, Watch, draw_watched, relative
from foreseer.workbench.stricter import stricter_than, why_none

__all__ = ["ExplainSettings", "explain"]

FILE = Document(format="foreseer explain 1", made_by="`foreseer explain`", again="write another --out", sealed=False)
FATES = ("computed", "rejected", "accepted", "forecast")

optional: Any = attrs.validators.optional


@attrs.frozen(kw_only=True)
class ExplainSettings:
    """What `explain` does.

    Attributes:
        policy: As on the command line.
        sample: Which sample: its index, as tables and pages count them.
        workload: Where samples come from, see `foreseer.bench.source.Source`; a text is the name of a
            workload.
        steps: Denoising steps; None for the workload's own number.
        guidance: Weight of the guidance; None for the workload's own.
        seed: Seed of the noise.
        replaced: How many runs of forecasts, from one computed step to the next, are computed in their place,
            each in a draw of its own, and then how many single steps of the worst of them: those with the
            largest errors. None for all.
        stricter: How many stricter settings are drawn at most.
        out: Folder of the draws, the picture and the numbers; made if it is missing. The same command goes on
            with what is there. None keeps nothing.

    Raises:
        OptionError: A value is out of range; the message says what to write.
    """

    policy: str | PolicySpec
    sample: int = attrs.field(default=0, validator=whole(0))
    workload: Drawing = attrs.field(factory=Source, converter=source_from)
    steps: int | None = attrs.field(default=None, validator=optional(whole(2, 1000)))
    guidance: float | None = attrs.field(default=None, validator=optional(check_guidance))
    seed: int = attrs.field(default=0, validator=whole(0))
    replaced: int | None = attrs.field(default=12, validator=optional(whole(1)))
    stricter: int = attrs.field(default=6, validator=whole(0))
    out: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))


def explain(settings: ExplainSettings, *, tell: Tell = lambda what, done, total: None) -> Explained:
    """Find out what a policy did to one sample.

    The sample is drawn in full, then with the policy and with each forecast step computed as well. Then runs of
    forecasts are replaced, and single steps of the worst of them: the denoiser's output is what computing
    gives there, and what the policy keeps for its forecasts is as it was. Of the step that gives back most,
    stricter settings are drawn until one catches it: computes it, or is at most half as wrong there.

    Args:
        settings: What to do.
        tell: Told how far it is.

    Raises:
        NotFiniteError: The sample is not finite when it is fully computed.
        PluginError, OptionError: The policy is not installed, or an option is wrong; or the folder holds
            other draws.
        KeyboardInterrupt: What was drawn is kept, where there is a folder; the same call goes on.
    """
    spec = policy(settings.policy)
    sampler = Sampler.of(loaded(settings.workload), seed=settings.seed, num_steps=settings.steps, guidance=settings.guidance)
    return _Explaining(settings, spec, sampler, tell).run()


class _Explaining:
    def __init__(self, settings: ExplainSettings, spec: PolicySpec, sampler: Sampler, tell: Tell) -> None:
        self._settings, self._spec, self._sampler, self._tell = settings, spec, sampler, tell
        self._draws = KeptDraws(
            settings.out,
            named(settings.workload)
            | identities_of(sampler.workload)
            | {"policy": str(spec), "steps": sampler.num_steps, "guidance": sampler.guidance}
            | {name: getattr(settings, name) for name in ("sample", "seed")},
            FILE,
        )
        self._done, self._total = 0, 2 + 2 * (settings.replaced or sampler.num_steps) + settings.stricter
        self._full: list[Tensor] = []

    def run(self) -> Explained:
        full = self._begin("full computation", self._draw_full)
        self._full = [full.tensors[name] for name in sorted(full.tensors) if name.startswith("call")]
        self._image, self._final = full.tensors["image"], full.tensors["final"]
        own = self._begin(f"{self._spec}, every forecast computed as well", lambda: self._draw_policy(self._spec))
        steps = tuple(structured(StepAccount, step) for step in own.facts["steps"])
        likeness = structured(Likeness, own.facts["likeness"])
        images = {"full": self._image, "policy": own.tensors["image"]}
        weights = {int(step): math.inf if weight is None else weight for step, weight in own.facts["weights"].items()}
        most, runs = self._settings.replaced, _runs(steps) if likeness.error else []
        runs = sorted(runs, key=lambda run: -sum(weights.get(step, 0.0) for step in run))[:most]
        self._total = 2 + len(runs) + max(map(len, runs), default=0) + self._settings.stricter
        found = [self._replaced(run) for run in runs]
        inside: list[Replaced] = []
        if found:
            worst, images["replaced"] = min(found, key=lambda one: (math.isnan(one[0].likeness.error), one[0].likeness.error))
            singles = sorted(worst.steps, key=lambda step: -weights.get(step, 0.0))[:most] if len(worst.steps) > 1 else []
            inside = [self._replaced((step,))[0] for step in singles]
        explained = Explained(
            policy=str(self._spec),
            workload=self._sampler.workload.name,
            sample=self._settings.sample,
            asked=self._sampler.workload.words([self._settings.sample])[0],
            num_steps=self._sampler.num_steps,
            likeness=likeness,
            steps=steps,
            runs=tuple(sorted((one for one, _ in found), key=lambda one: one.steps)),
            replaced=tuple(sorted(inside, key=lambda one: one.steps)),
            stricter=(),
            images=images,
            warnings=tuple(own.facts["warnings"]),
        )
        blamed = explained.worst
        if blamed is not None:
            stricter = tuple(self._stricter(blamed, images))
            explained = attrs.evolve(explained, stricter=stricter, no_stricter="" if stricter else why_none(self._spec, most=self._settings.stricter))
        self._tell("done", self._total, self._total)
        return explained

    def _begin(self, what: str, make: Any) -> Draw:
        self._tell(what, self._done, self._total)
        self._done += 1
        return self._draws.draw(what, make)

    def _replaced(self, steps: tuple[int, ...]) -> tuple[Replaced, Tensor]:
        """Draw with the outputs of some steps computed; returns the sample's image too."""

        def make() -> Draw:
            drawn, _ = draw_watched(self._sampler, self._settings.sample, self._spec, watch=Watch(frozenset(steps), replace=True))
            return Draw(tensors=self._tensors(drawn), facts={"likeness": self._likeness(drawn)})

        draw = self._begin(f"steps {steps[0]} to {steps[-1]} computed", make)
        return Replaced(steps=steps, likeness=structured(Likeness, draw.facts["likeness"])), draw.tensors["image"]

    def _stricter(self, worst: StepAccount, images: dict[str, Tensor]) -> Iterator[Caught]:
        """Draw stricter settings until one catches the worst step."""
        for spec in stricter_than(self._spec, worst, most=self._settings.stricter):
            draw = self._begin(f"{spec}, step {worst.step} looked at", functools.partial(self._draw_policy, spec, (worst.step,)))
            then = next(step for step in (structured(StepAccount, step) for step in draw.facts["steps"]) if step.step == worst.step)
            behind = then.behind if then.forecast else -1
            caught = then.off <= worst.off / 2
            yield Caught(policy=str(spec), likeness=structured(Likeness, draw.facts["likeness"]), off=then.off, behind=behind, caught=caught)
            if caught:
                images["stricter"] = draw.tensors["image"]
                return

    def _draw_full(self) -> Draw:
        drawn, trail = draw_watched(self._sampler, self._settings.sample, None)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self._tensors(drawn).values()):
            raise NotFiniteError("the sample is not finite when it is fully computed; write another --dtype")
        calls = {f"call {number:06d}": latent for number, latent in enumerate(trail.latents)}
        return Draw(tensors={**self._tensors(drawn), **calls}, facts={})

    def _draw_policy(self, spec: PolicySpec, shadowed: Collection[int] | None = None) -> Draw:
        watch = Watch(shadowed)
        drawn, trail = draw_watched(self._sampler, self._settings.sample, spec, watch=watch, reference=self._full)
        facts = {"likeness": self._likeness(drawn), "steps": _accounts(_fates(drawn), watch.shadows, trail.drift), "weights": _weights(watch.shadows)}
        warnings = list(dict.fromkeys(said for report in drawn.reports.values() for said in report.warnings))
        return Draw(tensors=self._tensors(drawn), facts={**facts, "warnings": warnings})

    def _tensors(self, drawn: Sampling) -> dict[str, Tensor]:
        return {"image": self._sampler.workload.decode(drawn.latents)[0], "final": drawn.latents.detach().cpu()}

    def _likeness(self, drawn: Sampling) -> Likeness:
        image, final = self._tensors(drawn).values()
        return Likeness(psnr=float(psnr(image[None], self._image[None])[0]), error=relative(final, self._final), computed=drawn.steps[0])


def _fates(drawn: Sampling) -> dict[int, tuple[str, str, float, float]]:
    """Of each step of the sampling its fate, why, and what a gate saw."""
    found: dict[int, tuple[str, str, float, float]] = {}
    for report in drawn.reports.values():
        for outcome in report.outcomes:
            refused = outcome.accept is not None and not all(outcome.accept)
            fate = "rejected" if refused else "computed" if outcome.full else "forecast" if outcome.accept is None else "accepted"
            errors = [error for error in outcome.error if not math.isnan(error)]
            step = report.run.start + outcome.step.index
            own = (fate, outcome.reason, max(errors, default=math.nan), outcome.threshold)
            found[step] = max(found.get(step, own), own, key=lambda one: FATES.index(one[0]))
    return found


def _accounts(fates: dict[int, tuple[str, str, float, float]], shadows: list[Shadow], drift: dict[int, float]) -> list[StepAccount]:
    """Join what is known of each step."""
    accounts, behind = [], -1
    for step in sorted(fates):
        fate, reason, error, threshold = fates[step]
        own = [shadow for shadow in shadows if shadow.step == step]
        off, size = (math.sqrt(sum(getattr(shadow, name) ** 2 for shadow in own)) for name in ("off", "size"))
        forecast = fate in FATES[2:]
        wrong = (off / size if size else math.nan) if forecast else 0.0
        accounts.append(
            StepAccount(step=step, fate=fate, reason=reason, error=error, threshold=threshold, behind=behind, off=wrong, drift=drift.get(step, math.nan))
        )
        behind = behind if forecast else step
    return accounts


def _weights(shadows: list[Shadow]) -> dict[int, float]:
    """Of each forecast step how far its error moves the latent at once, by which steps are chosen."""
    found: dict[int, float] = {}
    for shadow in shadows:
        found[shadow.step] = found.get(shadow.step, 0.0) + (shadow.off * shadow.span) ** 2
    return found


def _runs(steps: tuple[StepAccount, ...]) -> list[tuple[int, ...]]:
    """Return the forecast steps from each computed step to the next."""
    runs: dict[int, list[int]] = {}
    for step in steps:
        if step.forecast:
            runs.setdefault(step.behind, []).append(step.step)
    return [tuple(run) for run in runs.values()]
