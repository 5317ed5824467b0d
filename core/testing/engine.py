"""Engine: a policy fits the engine. Rejecting everything is the bare model, the report is true, and parts can
be crossed.
"""

from __future__ import annotations

from collections.abc import Callable

from foreseer.errors import PolicyConflictError
from foreseer.plugins import DECISIONS, policy_hooks
from foreseer.registry import PolicySpec
from foreseer.testing.check import broken, law, policies
from foreseer.testing.partners import ReferenceGate, ReferencePredictor, ReferenceSchedule
from foreseer.testing.plays import play, reject_all, some_rejected
from foreseer.testing.spy import same
from foreseer.testing.subject import Subject, subject_of
from foreseer.testing.worlds import World, constant, mixed

__all__ = ["CHECKS", "check_accounting", "check_composes", "check_reject_all_is_identity"]


def check_reject_all_is_identity(subject: Subject) -> str:
    """Where everything is rejected, the output is the bare model's, bit for bit.

    Why: to compute is always right. A policy that changes the output even then changes it elsewhere too, and
    every quality that is measured of it is of two changes.

    Would have caught: cache-dit with four first and four last blocks of six gives a wrong output even where
    no step is cached.
    """
    for cast in range(len(subject.casts)):
        done = play(subject, World(mixed), cast=cast, tamper=reject_all())
        for index, output in done.outputs.items():
            truth = done.world.output(index)
            if not same(output, truth):
                away = (output - truth).abs().max().item()
                broken(f"with every draft rejected, the output of step {index} is up to {away:.3g} off the model's", "Write to nothing that you are shown")
    return "bitwise the bare model"


def check_accounting(subject: Subject) -> str:
    """The report is true: blocks counted by the model are those reported, and no draft was used whose error
    is above the threshold that is reported.

    A gate that has no threshold leaves it NaN, and is not held to one.

    Why: users tune by the report. An error of 0.3 beside a threshold of 0.1 and the word "accepted" teaches
    them that the numbers mean nothing.

    Would have caught: cache-dit's summary goes on reporting the steps [3,4,6] while its contexts drift and
    others are skipped.
    """
    judged = 0
    for cast in range(len(subject.casts)):
        for tamper in (None, some_rejected()):
            done = play(subject, World(mixed), cast=cast, tamper=tamper)
            if done.world.counted != done.report.block_rows:
                broken(f"{done.world.counted} block-rows were computed, and {done.report.block_rows} reported", "A policy must not evaluate the model itself")
        for judgement in play(subject, World(mixed), cast=cast).spy.judgements:
            for row, (error, accept) in enumerate(zip(judgement.error, judgement.accept, strict=True)):
                if accept and error > judgement.threshold * (1 + 1e-6):
                    broken(
                        f"at step {judgement.step}, row {row} is accepted with an error of {error:.4g}, and the threshold is {judgement.threshold:.4g}",
                        "Report in the Verdict the threshold that was used",
                    )
                judged += 1
    return f"every block counted, {judged} answers within the threshold"


def check_composes(subject: Subject) -> str:
    """Parts can be crossed: a lone part works with a reference partner, the option ``predictor`` is honoured,
    and a second provider is refused by name.

    Why: a gate is compared with other gates at the same predictor, and the other way round. That is what the
    parts are apart for.

    Would have caught: every released method is one bundle; the same gate was written four times for four
    engines in a month (SeaCache: sglang #36471, vllm-omni #6975 and #6922, diffusers #14663).
    """
    used = []
    for cast, (name, _) in enumerate(subject.casts):
        forecast = sum(o.computed.count(False) for o in play(subject, World(constant), cast=cast).spy.outcomes)
        used.append(f"{name}: {forecast} row-steps forecast")
    if "predictor" in subject.can.options and "predict_features" in subject.can.hooks:
        partners: list[ReferencePredictor] = []

        def reference() -> ReferencePredictor:
            partners.append(ReferencePredictor())
            return partners[-1]

        crossed = subject_of(PolicySpec(subject.spec.name, subject.spec.factory, {**subject.spec.options, "predictor": reference}))
        own, other = play(subject, World(constant)), play(crossed, World(constant))
        if own.spy.forecasts and other.spy.forecasts and not any(partner.asked for partner in partners):
            broken(
                "the predictor that was given as option predictor= was not asked for one forecast", "Build it with foreseer.policies.predictor_from(predictor)"
            )
    rivals: dict[str, Callable[[], object]] = dict(zip(DECISIONS, (ReferenceSchedule, ReferencePredictor, ReferenceGate), strict=True))
    for hook, rival in rivals.items():
        if hook in subject.can.hooks:
            try:
                policy_hooks((*subject.spec(), rival()))
            except PolicyConflictError as conflict:
                if not any(type(plugin).__name__ in str(conflict) for plugin in subject.spec()):
                    broken(f"the conflict over {hook} does not name it: {conflict}", "Give the plugin's class a name of its own")
            else:
                broken(f"a second provider of {hook} was not refused", "Mark the hook with foreseer.hookimpl")
    return "; ".join(used)


CHECKS = (
    law(check_reject_all_is_identity, "engine", policies),
    law(check_accounting, "engine", policies),
    law(check_composes, "engine", policies),
)
