"""How PSNRs of samples are counted: one rule for means, worst samples and differences, whoever asks."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreseer.psnr import BEST_PSNR, BROKEN_PSNR, counted_psnr, decibels, likeness_of, psnr

ROOT = Path(__file__).parents[1]
PSNRS = st.lists(st.floats(-50, 300) | st.just(math.inf) | st.just(math.nan), min_size=1, max_size=8)


@given(PSNRS)
def test_every_sample_counts_with_something_finite(psnrs: list[float]) -> None:
    """Law: at most as what is the same counts, in order; what is broken counts as nothing."""
    counted = counted_psnr(psnrs)
    assert np.isfinite(counted).all()
    assert counted.max() <= BEST_PSNR
    known = sorted((raw, one) for raw, one in zip(psnrs, counted, strict=True) if not math.isnan(raw))
    assert [one for _, one in known] == sorted(one for _, one in known)
    assert all(one == BROKEN_PSNR for raw, one in zip(psnrs, counted, strict=True) if math.isnan(raw))


@given(PSNRS)
def test_a_likeness_is_the_mean_and_the_least_of_what_is_counted(psnrs: list[float]) -> None:
    like = likeness_of(psnrs)
    assert like.mean == pytest.approx(counted_psnr(psnrs).mean())
    assert like.worst == counted_psnr(psnrs).min() <= like.mean + 1e-9
    assert (like.samples, like.same, like.broken) == (
        len(psnrs),
        psnrs.count(math.inf),
        sum(map(math.isnan, psnrs)),
    )
    assert (like.same == like.samples) == all(v == math.inf for v in psnrs)


def test_samples_that_are_the_same_and_samples_that_broke() -> None:
    full = torch.zeros(3, 1, 2, 2)
    own = full.clone()
    own[1, 0, 0, 0], own[2] = math.nan, 0.2
    like = likeness_of(psnr(own, full))
    assert (like.mean, like.worst) == (pytest.approx((100 + 0 + 20) / 3, abs=1e-4), 0.0)
    assert (like.same, like.broken) == (1, 1)
    assert likeness_of(psnr(full, full)).mean == BEST_PSNR


def test_the_psnr_of_an_error_is_that_of_samples_so_far_apart() -> None:
    full, own = torch.zeros(2, 3, 5, 5), torch.rand(2, 3, 5, 5)
    error = np.square(own.double().numpy()).reshape(2, -1).mean(1)
    np.testing.assert_array_equal(psnr(own, full), decibels(error))


def test_it_is_worked_out_nowhere_else() -> None:
    """Law: no other file of the package takes ten times a decadic logarithm."""
    found = set()
    folders = ("core", "bench", "policies", "adapters", "zoo", "docs/_build")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            product = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
            if product and "log10(" in ast.unparse(node):
                found.add(str(path.relative_to(ROOT)))
    assert found == {"core/psnr.py"}
