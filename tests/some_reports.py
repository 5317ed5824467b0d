"""Reports of every kind, for tests of what is shown of them."""

from __future__ import annotations

import math

import attrs
import numpy as np

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.report import Report

INF, NAN = math.inf, math.nan


def make(policy, *, steps=12, rows=4, groups=None, **options) -> Report:
    """Run a policy on smooth features with a jump, so that gates accept some rows and reject others."""
    time_of = {float(t): i for i, t in enumerate(np.linspace(981.0, 1.0, steps))}

    def feature(site, t):
        x = time_of[t] / 12
        jump = (np.arange(rows) % 3 == 0) * (x > 0.5) * math.cos(40 * x)
        return np.float32(1.5 + np.sin(2 * x + site.block) + 0.1 * jump)[:, None] * np.ones((1, 8), np.float32)

    host = ArrayBackbone(feature, depth=4, parts=("attn", "mlp"))
    keep = {"inputs": lambda x, t: t, "update": lambda x, output, index: x}
    return foreseer.sample(host, 0, list(time_of), policy=foreseer.policy(policy, **options), groups=groups, **keep)[1]


def with_errors(report: Report, change) -> Report:
    """The report with other errors in its judged steps: ``change(step, row, error) -> error``."""
    outcomes = [o if o.accept is None else attrs.evolve(o, error=tuple(change(o.step.index, r, e) for r, e in enumerate(o.error))) for o in report.outcomes]
    return attrs.evolve(report, outcomes=tuple(outcomes))


def all_rejected(report: Report) -> Report:
    outcomes = [o if o.accept is None else attrs.evolve(o, accept=(False,) * len(o.accept), computed=(True,) * len(o.accept)) for o in report.outcomes]
    return attrs.evolve(report, outcomes=tuple(outcomes))


CASES = {
    "gated": lambda: make("cg_taylor", threshold=0.05),
    "verified": lambda: make("speca", threshold=0.2, steps=30),
    "scheduled": lambda: make("taylorseer", interval=4),
    "grouped": lambda: make("speca", groups=(0, 1, 0, 1)),
    "uneven groups": lambda: make("speca", rows=5, groups=(7, 3, 7, 7, 3)),
    "one step": lambda: make("taylorseer", steps=1, rows=1),
    "one row": lambda: make("speca", rows=1),
    "64 rows": lambda: make("cg_taylor", rows=64, threshold=0.05),
    "64 rows in pairs": lambda: make("speca", rows=64, groups=tuple(i % 32 for i in range(64))),
    "many steps": lambda: make("speca", steps=160, rows=2),
    "nothing judged": lambda: make("none"),
    "no step": lambda: attrs.evolve(make("taylorseer"), outcomes=(), finished=False),
    "not finished": lambda: attrs.evolve(r := make("cg_taylor", threshold=0.05), outcomes=r.outcomes[:7], finished=False),
    "unknown length": lambda: attrs.evolve(r := make("taylorseer"), run=attrs.evolve(r.run, num_steps=None, timesteps=None), finished=False),
    "threshold 0": lambda: make("cg_taylor", threshold=0.0),
    "all NaN": lambda: with_errors(make("cg_taylor", threshold=0.05), lambda step, row, error: NAN),
    "no verdict": lambda: attrs.evolve(
        r := all_rejected(with_errors(make("cg_taylor"), lambda *_: NAN)), outcomes=tuple(attrs.evolve(o, threshold=NAN) for o in r.outcomes)
    ),
    "zeros": lambda: with_errors(make("cg_taylor", threshold=0.05), lambda step, row, error: 0.0 if row == 0 else error),
    "only zeros": lambda: with_errors(make("cg_taylor", threshold=0.0), lambda step, row, error: 0.0),
    "some not finite": lambda: with_errors(make("cg_taylor"), lambda step, row, error: (NAN, INF, error, 1e-9)[row]),
    "long name": lambda: attrs.evolve(make("speca"), policy="speca:" + ",".join(f"option_{i}=${i}^$" for i in range(60))),
}
