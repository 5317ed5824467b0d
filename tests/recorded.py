"""Smooth features as a recording: a trace, and the tensors that it is of."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreseer import Site
from foreseer.registry import PolicySpec
from foreseer.workbench import Signature, Trace

EXAMPLES = Path(__file__).parents[1] / "plugins_example"


def smooth(
    *, samples: int = 3, steps: int = 20, width: int = 7, depth: int = 4, seed: int = 0, sites: Sequence[int] | None = None, copies: int = 1
) -> tuple[Trace, dict[Site, Any]]:
    """Sums of a few waves over the run, a little different in every sample. Returns the trace and ``site -> (S, T, width)`` features."""
    random = np.random.default_rng(seed)
    time = np.linspace(0, 1, steps)
    features = {}
    for block in range(depth) if sites is None else sites:
        amplitude = random.normal(size=(samples, 5, width))
        frequency, phase = random.uniform(1, 7, (2, samples, 5, 1))
        waves = np.sin(frequency * time + phase) / (1 + np.arange(5))[:, None]
        features[Site(block)] = 1.0 + np.einsum("skt,skw->stw", waves, amplitude)
    last = Site(depth - 1)
    trace = Trace(
        signature=Signature(num_steps=steps, timesteps=tuple(np.linspace(999, 0, steps))),
        depth=depth,
        copies=copies,
        labels=tuple(map(str, range(samples))),
        grams={("", site): f @ f.transpose(0, 2, 1) for site, f in features.items()},
        target=last,
        sensitivity=random.uniform(0.1, 1.0, (samples, steps)),
        measured=tuple(range(steps)),
        final_norm=np.full(samples, 8.0),
        final_size=64,
    )
    return trace, features


def example(name: str, **options: Any) -> PolicySpec:
    """A predictor of ``plugins_example``, without installing it."""
    spec = importlib.util.spec_from_file_location(f"foreseer_{name}", EXAMPLES / f"foreseer-{name}" / f"foreseer_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return PolicySpec(name, getattr(module, name), options)
