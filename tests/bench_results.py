"""Results made by hand for the tests of the page: every kind of lane, names that need escaping, a video beside images, and samples on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

from foreseer.bench.likeness import Drawn
from foreseer.bench.results import Counted, LaneResult, Results, Unit
from foreseer.bench.store import Store

SAMPLES, STEPS, DEPTH = 8, 10, 4
SPREAD = np.linspace(-1, 1, SAMPLES)
NASTY = 'evil:name=</script><script>document.title="owned"</script>&amp;'


def lane(name: str, psnr: float, cost: float, *, kind: Any = "policy", method: str = "", **more: Any) -> LaneResult:
    """A lane whose samples' PSNRs lie within 1 dB of a mean, at a share of the block-rows of full computation."""
    spread = (psnr,) * SAMPLES if math.isinf(psnr) else tuple((psnr + SPREAD).tolist())
    error = 0.0 if math.isinf(psnr) else 1 / psnr
    ratios = () if kind == "full" else (0.9 / cost, 1 / cost, 1.2 / cost)
    unit = Unit(
        number=0,
        indices=tuple(range(SAMPLES)),
        steps=(cost * STEPS,) * SAMPLES,
        block_rows=cost * STEPS * DEPTH * SAMPLES,
        figures={"psnr": spread, "latent_error": (error,) * SAMPLES, "accuracy": (1.0,) * SAMPLES},
        seconds=tuple(1 / ratio for ratio in ratios),
        full_seconds=(1.0,) * len(ratios),
        bytes_held=2_000_000 if kind == "policy" else 0,
        warnings=("Take care.",) if method == "speca" else (),
    )
    counted = Counted(flops=int(cost * 1e9), peak_bytes=int(5e6 + 1e6 * cost), peak_how="tensors")
    given: dict[str, Any] = {"num_steps": round(cost * STEPS) if kind == "fewer" else STEPS, "batch": SAMPLES, "counted": counted, "frechet": 90 + 100 * error}
    return LaneResult(name=name, kind=kind, method=method, units=(unit,), **{**given, **more})


def with_figures(one: LaneResult, **figures: list[float | None]) -> LaneResult:
    """The lane with other figures of its samples."""
    (unit,) = one.units
    return attrs.evolve(one, units=(attrs.evolve(unit, figures={**unit.figures, **figures}),))


def report(computed: Sequence[bool], *, judged: bool = False) -> dict[str, Any]:
    """A run's account: two rows a sample, the first sample rejects what is judged and computed."""
    steps = []
    for index, full in enumerate(computed):
        rows = [full or (judged and r % SAMPLES == 0) for r in range(2 * SAMPLES)]
        accept = [r % SAMPLES != 0 for r in range(2 * SAMPLES)] if judged and not full else None
        steps.append({"index": index, "computed": rows, "accept": accept, "seconds": 0.01, "error": [None] * 2 * SAMPLES, "threshold": None})
    return {"steps": steps, "groups": [r % SAMPLES for r in range(2 * SAMPLES)], "rows": 2 * SAMPLES}


def made(**changes: Any) -> Results:
    """A benchmark in which everything happens."""
    every = [index % 3 == 0 for index in range(STEPS)]
    lanes = [
        lane("full", math.inf, 1.0, kind="full"),
        lane("taylorseer:interval=3", 32.0, 0.4, method="taylorseer", options={"interval": 3, "max_order": 1}, reports={"": report(every)}),
        lane("taylorseer:interval=5", 23.0, 0.2, method="taylorseer", options={"interval": 5, "max_order": 1}, reports={"": report(every)}),
        lane("speca:threshold=0.1", 36.0, 0.55, method="speca", options={"threshold": 0.1, "decide": "row"}, reports={"": report(every, judged=True)}),
        lane("none", math.inf, 1.0, method="none"),
        lane(NASTY, 21.0, 0.35, method="evil", options={"name": "</script>"}),
        lane("dbcache:threshold=0.1", 30.0, 0.3, kind="peer", method="dbcache", options={"threshold": 0.1, "calibrator": "none"}),
        lane("dbcache:threshold=0.01", 38.0, 0.6, kind="peer", method="dbcache", options={"threshold": 0.01, "calibrator": "none"}),
        LaneResult(name="magcache", kind="peer", batch=SAMPLES, num_steps=STEPS, method="magcache", error="ValueError: it is <broken>"),
        *(lane(f"full, {n} steps", 20.0 + 2 * n, n / STEPS, kind="fewer") for n in (2, 3, 4, 6)),
    ]
    published = ({"method": "TaylorSeer", "model": "DiT-XL/2", "source": "arXiv 2503.06923", "fid": 2.49},)
    given: dict[str, Any] = {"family": "dit", "about": "Made by hand.", "num_steps": STEPS, "seed": 0, "guidance": 1.5, "depth": DEPTH, "finished": True}
    known: dict[str, Any] = {"settings": {"samples": SAMPLES}, "machine": {"processor": "none"}, "versions": {"Python": "3"}, "published": published}
    return Results(**{**given, **known, "lanes": tuple(lanes), **changes})


def keep_samples(results: Results, folder: Path, shape: tuple[int, ...] = (1, 8, 8), *, batch: int = SAMPLES) -> None:
    """Put samples of every finished lane's first batch into the folder; those of lanes with an infinite PSNR are full computation's."""
    store = Store(folder)
    store.name([lane.key for lane in results.lanes])
    full = torch.rand((batch, *shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
    for place, one in enumerate(results.lanes):
        same = math.isinf(one.values("psnr")[0]) if one.units else True
        images = full if same else full + 0.05 * torch.randn(full.shape, generator=torch.Generator().manual_seed(place))
        if one.units:
            store.keep(one.key, 0, Drawn(images.flatten(1), images, images.flatten(1), torch.zeros(batch, dtype=torch.int64)))
