"""Rows: a row of a batch gets what it would get alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from foreseer.errors import ContractError
from foreseer.testing.check import broken, law, only, policies
from foreseer.testing.plays import Play, all_rejected_in_turn, play, run_of
from foreseer.testing.spy import Tamper, same
from foreseer.testing.subject import Subject
from foreseer.testing.worlds import MANY, Feature, World, mixed, noise, replaced

BY_ROW = (
    "Let a row's forecast, error and answer depend on that row (and the rows of its group) only: pool with evidence.error(metric, groups=run.groups), keep "
    "counters per row, or declare decide = 'batch'"
)

TOKENS = 6
"""Neither the number of rows nor that of channels."""


def _tamper(subject: Subject, labels: Sequence[int] = (0, 1, 2)) -> Tamper | None:
    """Where all rows share one verdict on purpose, fixed verdicts take its place, and the forecasts are
    compared.
    """
    return all_rejected_in_turn(labels) if subject.can.decide == "batch" else None


def _compare(subject: Subject, alone: Play, other: Play, rows: Sequence[tuple[int, int]], story: str) -> int:
    """Compare rows of two runs, ``(row of the first, row of the second)``; return how many row-steps were
    compared.
    """
    fates = [{o.step.index: o for o in p.spy.outcomes} for p in (alone, other)]
    verdicts = [{j.step: j for j in p.spy.judgements} for p in (alone, other)]
    drafts = [{f.step: f for f in p.spy.forecasts} for p in (alone, other)]
    seen = 0
    for step in sorted(alone.outputs.keys() & other.outputs.keys()):
        judged = [v[step] for v in verdicts if step in v] if subject.can.decide == "row" else []
        for a, b in rows:
            where = f"at step {step}, row {a}"
            if len(judged) == 2 and all(len(j.error) > max(a, b) for j in judged):
                first, second = (judged[0].error[a], judged[0].accept[a]), (judged[1].error[b], judged[1].accept[b])
                close = math.isclose(first[0], second[0], rel_tol=1e-5, abs_tol=1e-12) or not (math.isfinite(first[0]) or math.isfinite(second[0]))
                if not close or first[1] != second[1]:
                    verdict = "error {:.4g} and accept={}"
                    broken(f"{where} got {verdict.format(*first)}, and {verdict.format(*second)} {story}", BY_ROW)
            if step in drafts[0] and step in drafts[1]:
                for site in drafts[0][step].values.keys() & drafts[1][step].values.keys():
                    if not same(drafts[0][step].values[site][a], drafts[1][step].values[site][b]):
                        broken(f"{where} got another forecast for site {site} {story}", BY_ROW)
            fate = fates[0][step].computed[a], fates[1][step].computed[b]
            if fate[0] != fate[1]:
                words = ["forecast", "computed"]
                broken(f"{where} was {words[fate[0]]}, and {words[fate[1]]} {story}", BY_ROW)
            if not same(alone.outputs[step][a], other.outputs[step][b]):
                broken(f"{where} came out differently {story}", BY_ROW)
            seen += 1
    return seen


@law("rows", policies, "{} row-steps compared")
def check_row_isolation(subject: Subject) -> int:
    """What one row holds changes nothing for the others.

    The first row, then the last, is filled with NaN, then with white noise; the forecasts, errors, answers
    and outputs of the others must stay as they are, bit for bit.

    Why: an image must not depend on what else is in the batch. Where it does, results cannot be reproduced,
    and one hard prompt spoils easy ones or lets them through.

    Would have caught: diffusers' first-block cache decides by a mean over the batch: one row of 16 that is
    off by 75% gives a mean of 4.7% and is accepted at a threshold of 5%.
    """
    seen = 0
    base = play(subject, World(mixed, tokens=TOKENS), tamper=_tamper(subject))
    fillings: tuple[tuple[str, Feature | float], ...] = (("NaN", math.nan), ("white noise", lambda site, k: 100 * noise(site, k)))
    for row in (0, 2):
        for what, filling in fillings:
            other = play(subject, World(replaced(mixed, row, filling), tokens=TOKENS), tamper=_tamper(subject))
            seen += _compare(subject, base, other, [(r, r) for r in range(3) if r != row], f"with {what} in row {row}")
    return seen


@law("rows", policies, "{} row-steps compared")
def check_row_permutation(subject: Subject) -> int:
    """Rows in another order get the same results, in that order.

    Why: a row has no rank. A policy that looks at the first row only looks right in every test with one
    sample.

    Would have caught: nunchaku's TeaCache in batch mode corrupted every sample but the first (nunchaku #597,
    #601).
    """
    order = (2, 0, 1)
    base = play(subject, World(mixed), tamper=_tamper(subject))
    other = play(subject, World(mixed, labels=order), tamper=_tamper(subject, order))
    rows = [(row, place) for place, row in enumerate(order)]
    return _compare(subject, base, other, rows, f"when the rows came in the order {order}")


@law("rows", policies, "{} row-steps compared")
def check_row_subset(subject: Subject) -> int:
    """A row gets in a batch what it gets alone.

    Tried with batches of one row, two, three and thirty-three.

    Why: batch size is a matter of throughput. A threshold that is divided by the number of rows, or a mean
    over them, makes it a matter of quality.

    Would have caught: cache-dit decides once a batch: a sample that is never skipped alone at threshold 0.2
    is skipped at three steps of eight beside another prompt. diffusers and TeaCache decide likewise.
    """
    seen = 0
    base = play(subject, World(mixed, tokens=TOKENS), tamper=_tamper(subject))
    for labels in ((0,), (2,), (1, 2), MANY):
        other = play(subject, World(mixed, labels=labels, tokens=TOKENS), tamper=_tamper(subject, labels))
        seen += _compare(subject, base, other, [(label, row) for row, label in enumerate(labels)], f"in a batch of the rows {labels}")
    return seen


@law(
    "rows",
    only(lambda can: can.decide == "row", "it declares decide='batch': all rows share one verdict"),
    "{} rows compared",
)
def check_groups(subject: Subject) -> int:
    """Rows of one sample share one error and one answer, which depend on no other sample.

    With guidance, rows of one sample are spread over the batch; ``run.groups`` says which. The error is that
    of the whole sample, whatever the samples are called, and whichever stand beside it.

    Why: the two halves of a guidance pair are subtracted from one another and the difference is magnified. A
    forecast half against a computed one is an error that guidance multiplies. The session merges answers, so
    that a gate that ignores groups is not wrong but judged by its noisier half, and it behaves otherwise
    where the halves come in separate calls.

    Would have caught: cache-dit 1.5.3 on Flux with true guidance is not told that two calls are one sample:
    they alternate in one context, each is compared with the other, and 0 of 16 are skipped at a threshold of
    0.6, silently.
    """
    seen = 0
    for groups in ((5, 2, 5), (7, 7, 1), (4, 4, 4)):
        try:
            done = play(subject, World(mixed), run=run_of(World(mixed), groups=groups))
        except ContractError as error:
            broken(f"with groups {groups}, {error}", "Answer for each of run.rows rows: run.groups says which of them are one sample")
        pairs = [(b, a) for b, a in itertools.combinations(range(3), 2) if groups[a] == groups[b]]
        for j, (b, a) in itertools.product(done.spy.judgements, pairs):
            if a < len(j.error):
                if j.accept[a] != j.accept[b] or not math.isclose(j.error[a], j.error[b], rel_tol=1e-5, abs_tol=1e-12):
                    broken(
                        f"at step {j.step}, rows {b} and {a} are one sample (groups {groups}) and got errors "
                        f"{j.error[b]:.4g} and {j.error[a]:.4g}, accept {j.accept[b]} and {j.accept[a]}",
                        "Write evidence.error(metric, groups=run.groups)",
                    )
                seen += 1
        for (step, plan), (b, a) in itertools.product(done.spy.plans, pairs):
            if plan is not None and len(plan.compute) == 3 and plan.compute[a] != plan.compute[b]:
                story = f"the rows {b} and {a}, which are one sample (groups {groups})"
                broken(f"at step {step.index} the plan computes one of {story}", "Plan by group")
        for feature, labels, named, story in _company(groups):
            world = World(feature, labels=labels)
            other = play(subject, world, run=run_of(world, groups=named))
            rows = [(row, labels.index(row)) for row in range(3) if groups.count(groups[row]) > 1]
            seen += _compare(subject, done, other, rows, f"{story} (groups {groups}, and {named})")
    return seen


def _company(groups: tuple[int, ...]) -> Iterator[tuple[Feature, tuple[int, ...], tuple[int, ...], str]]:
    """Other company for the sample of several rows: what the rows compute, which there are, what the samples
    are called, and that in words.
    """
    if len(set(groups)) == 1:
        yield mixed, (0, 1, 2), (0, 0, 0), "where the sample was called otherwise"
        yield mixed, (0, 1, 2, 0, 1), (2, 2, 2, 0, 1), "beside two other samples"
        return
    pair = tuple(row for row in range(3) if groups.count(groups[row]) == 2)
    (single,) = set(range(3)) - set(pair)
    yield mixed, pair, (3, 3), "without the other sample"
    yield mixed, (0, 1, 2), tuple(int(row == single) for row in range(3)), "where the samples were called otherwise"
    yield replaced(mixed, single, lambda site, k: 100 * noise(site, k)), (0, 1, 2), groups, "beside a sample of white noise"
    yield mixed, (single, *pair, single), (1, 0, 0, 1), "beside two rows of the other sample"
    yield mixed, (*pair, *3 * (single,)), (0, 0, 1, 2, 3), "beside three other samples"
