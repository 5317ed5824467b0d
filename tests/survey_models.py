"""Run every tiny pipeline and transformer, and write down what works: `python tests/survey_models.py` writes adapters/models.json and docs/models.md."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import torch
from tiny import TINY
from tiny.bare import BARE, NOT_RUN, Bare
from tiny.bare_parts import quiet
from tiny.common import NO_BATCH, Tiny
from torch import Tensor
from torch.utils._pytree import tree_leaves

import foreseer
from foreseer.adapters.models import FOUND, Finding, transformers_with_blocks
from foreseer.policies import taylor

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
STEPS = 6
DIRECTLY = "called directly"
TARGETS = {
    "modules": "taylorseer:interval=3,max_order=1",
    "last_block": "taylorseer:interval=3,max_order=1,target=last_block",
    "output": "taylorseer:interval=3,max_order=1,target=output",
    "rows": "first sample computed",
}


class FirstSample:
    """Computes the first sample in every step, and forecasts the others from the third step on."""

    @foreseer.hookimpl
    def setup(self, run: foreseer.Run) -> foreseer.Needs:
        self.run = run
        return foreseer.Needs(sites=(foreseer.Site(run.depth - 1),))

    @foreseer.hookimpl
    def before_step(self, step: foreseer.Step) -> foreseer.Plan | None:
        compute = tuple(group == self.run.groups[0] for group in self.run.groups)
        return None if step.index < 2 else foreseer.Plan(forecast=(foreseer.Site(self.run.depth - 1),), compute=compute)


def policy_of(target: str) -> Any:
    """The policy by which a target is tried."""
    return (lambda: (FirstSample(), taylor(max_order=1))) if target == "rows" else foreseer.registry.parse_policy(TARGETS[target])


DOWNGRADES = {"modules": "module parts", "last_block": "last block cannot", "output": "nothing of this kind", "rows": "a rejection computes the whole"}
"""How the sentence begins, or a part of it, with which a report says that a target is out of reach."""
NONE = ("no known module parts", "the rest runs in every step")
"""What is no downgrade of what is there."""


def answer(target: str, said: list[str], reports: Sequence[foreseer.Report]) -> str:
    """Return "yes", or "no" and why, from the warnings and reports of a run under the target's policy."""
    why = next((warning for warning in said if DOWNGRADES[target] in warning and not any(words in warning for words in NONE)), "")
    if target == "modules" and not why and not any(site.part not in ("block", "output") for report in reports for site in report.bytes_held):
        why = "the blocks have no parts that are known"
    return f"no: {why.partition(': ')[2] or why}" if why else "yes"


def survey(tiny: Tiny) -> list[Finding]:
    """Run a pipeline under a policy of each target; return what was found about each of its transformers."""
    pipe = tiny.build()
    batch = 1 if NO_BATCH in tiny.notes else 2
    bare = tiny.call(pipe, steps=STEPS, batch=batch)
    names = {name: type(part).__name__ for name, part in pipe.components.items() if name.startswith("transformer") and part is not None}
    answers: dict[str, str] = {}
    notes: list[str] = []
    reports: dict[str, foreseer.Report] = {}
    for target in TARGETS:
        if target == "rows" and batch == 1:
            answers[target] = "not run: no batch of two can be drawn"
            continue
        try:
            with foreseer.attach(pipe, policy_of(target)) as attached:
                image = tiny.call(pipe, steps=STEPS, batch=batch)
                reports = attached.reports
                said = [warning for report in (attached.report, *reports.values()) for warning in report.warnings]
            if not torch.equal(tiny.call(pipe, steps=STEPS, batch=batch), bare):
                raise AssertionError("the pipeline was not restored")
            if not image.isfinite().all():
                raise AssertionError("the output is not finite")
        except Exception as error:
            answers[target] = f"no: {type(error).__name__}: {error}"
            continue
        answers[target] = answer(target, said, list(reports.values()))
        notes += [warning for warning in said if "always computed" in warning]
    first = next(iter(reports.values()))
    guidance = "sequential" if len(reports) > 1 and len(names) == 1 else "batched" if len(set(first.run.groups)) < first.run.rows else "one call"
    if len(names) > 1:
        guidance = "sequential" if len(reports) > len(names) else guidance
    return [
        Finding(cls, tiny.name, first.run.depth, guidance, answers["modules"], answers["last_block"], answers["output"], answers["rows"], "; ".join(set(notes)))
        for cls in dict.fromkeys(names.values())
    ]


def survey_bare(bare: Bare) -> Finding:
    """Call a transformer in a loop under a policy of each target; return what was found about it."""
    batch = 1 if NO_BATCH in bare.notes else 2
    model = bare.build()

    def loop() -> list[list[Tensor]]:
        with torch.no_grad(), quiet():
            outputs = [model(**bare.inputs(step, batch)) for step in range(STEPS)]
        return [[leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)] for output in outputs]

    def same(a: list[list[Tensor]], b: list[list[Tensor]]) -> bool:
        return all(torch.equal(x, y) for m, n in zip(a, b, strict=True) for x, y in zip(m, n, strict=True))

    before = loop()
    answers: dict[str, str] = {}
    depth = 0
    for target in TARGETS:
        if target == "rows" and batch == 1:
            answers[target] = "not run: no batch of two can be drawn"
            continue
        try:
            with foreseer.attach(model, policy_of(target)) as attached:
                with attached.run(num_steps=STEPS):
                    outputs = loop()
                report = attached.report
            if not same(loop(), before):
                raise AssertionError("the model was not restored")
            if not all(tensor.isfinite().all() for output in outputs for tensor in output):
                raise AssertionError("the output is not finite")
        except Exception as error:
            answers[target] = f"no: {type(error).__name__}: {error}"
            continue
        depth = report.run.depth
        answers[target] = answer(target, list(report.warnings), [report])
    variant = bare.name.partition(":")[2]
    where = f"({DIRECTLY}: {variant})" if variant else f"({DIRECTLY})"
    return Finding(bare.cls, where, depth, "", **answers, notes=bare.notes)


def page(diffusers: str, found: list[Finding]) -> str:
    """Write the table as a page."""
    ran = [f for f in found if f.pipeline]
    left = [f"{f.transformer} ({NOT_RUN[f.transformer]})" if f.transformer in NOT_RUN else f.transformer for f in found if not f.pipeline]
    lines = [
        "# Models",
        "",
        f"What was found by running tiny pipelines and transformers with random weights, with diffusers {diffusers}. `python tests/survey_models.py` makes",
        "this page and what `foreseer models` prints. Each line is a transformer in one pipeline. *Modules*, *last block*, *output*: what can be forecast.",
        "*Rows*: whether rejected samples of a batch are computed without the others. The first computed step of every attachment finds the same out for",
        "your model, by substituting what was just recorded; what does not give the same output bit for bit is not used, and the report says so. Rows are",
        "compared with those of the batch when some are to be computed alone for the first time.",
        "",
        "| transformer | pipeline | guidance | modules | last block | output | rows |",
        "|---|---|---|---|---|---|---|",
        *(f"| {f.transformer} | {f.pipeline.replace('Pipeline', '')} | {f.guidance} | {f.modules} | {f.last_block} | {f.output} | {f.rows} |" for f in ran),
        "",
        f"{len({f.pipeline for f in ran if DIRECTLY not in f.pipeline})} pipelines, {len({f.transformer for f in ran})} transformer classes.",
        f"Where it says *{DIRECTLY}*, the transformer was called in a loop of its own, since no pipeline of its class can be built offline here.",
        "",
        f"Classes with blocks that were not run: {', '.join(left)}.",
        "",
        *(f"- {f.transformer if DIRECTLY in f.pipeline else f.pipeline}: {f.notes}" for f in ran if f.notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: list[Finding] = []
    for tiny in TINY.values():
        found += survey(tiny)
        print(found[-1], file=sys.stderr)
    for bare in BARE.values():
        found.append(survey_bare(bare))
        print(found[-1], file=sys.stderr)
    known = {f.transformer for f in found}
    found += [Finding(name) for name in transformers_with_blocks() if name not in known]
    diffusers = version("diffusers")
    FOUND.write_text(json.dumps({"diffusers": diffusers, "findings": [attrs.asdict(f) for f in found]}, indent=1) + "\n")
    PAGE.write_text(page(diffusers, found))


if __name__ == "__main__":
    main()
