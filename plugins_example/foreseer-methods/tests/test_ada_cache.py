"""The conformance kit, a reference loop over tensors, and laws of the codebook."""

import math

import pytest
import torch
from foreseer_methods.ada_cache import ada_cache, codebook_from
from hypothesis import given, settings
from hypothesis import strategies as st

import foreseer
from foreseer.testing import parametrize_policies
from foreseer.testing.worlds import PARTS, World, constant, exponential, mixed, noise, polynomial, replaced
from foreseer.types import Site

BOOK = "0.002:9+0.01:5+0.03:3+0.2:2"


@parametrize_policies([ada_cache, foreseer.policy(ada_cache, target="last_block", codebook=BOOK)])
def test_conformance(policy, check):
    check(policy)


def run(world, steps=30, groups=None, **options):
    outputs = []
    _, report = foreseer.sample(
        world,
        None,
        range(steps),
        policy=foreseer.policy(ada_cache, **options),
        inputs=lambda x, t: int(t),
        update=lambda x, y, i: outputs.append(y.clone()),
        groups=groups,
    )
    return outputs, report


def reference(feature, steps, book, warmup=2):
    """As specified, on the features themselves: one row, or all rows together."""
    computed, due, last = [], 0, None
    for k in range(steps):
        if k < due:
            continue
        now, gap = feature(k), 1
        if k >= warmup - 1 and last is not None:
            change = torch.linalg.norm(now - last) / torch.linalg.norm(last) / (k - computed[-1])
            gap = next((steps for limit, steps in codebook_from(book) if change <= limit), 1)
        computed.append(k)
        last, due = now, k + gap
    return computed


@pytest.mark.parametrize("book", [BOOK, "0.03:12+1.0:3", "0.0:4", "0.001:6", "inf:4"])
@pytest.mark.parametrize("feature", [mixed, exponential, polynomial([1.0, 0.3, 0.2], 10.0), constant, noise])
def test_against_a_loop(book, feature):
    """Row by row, and all rows together; reuse in between is of the last computed step."""
    world = World(feature, parts=())
    outputs, report = run(world, codebook=book, target="last_block")
    for row in range(3):
        expected = reference(lambda k, row=row: world.output(k)[row], 30, book)
        assert [k for k in range(30) if report.computed[k, row]] == expected
        for k, output in enumerate(outputs):
            assert torch.equal(output[row], world.output(max(s for s in expected if s <= k))[row])
    _, report = run(world, codebook=book, target="last_block", decide="batch")
    assert report.full_steps == reference(world.output, 30, book)
    assert report.computed.all(axis=1).tolist() == report.computed.any(axis=1).tolist()


def test_modules_are_compared_together_as_one():
    world = World(mixed)

    def modules(k, row):
        sites = [Site(block, part) for block in range(world.depth) for part in PARTS]
        return torch.stack([world.forward(k, substitute={}, record=(site,)).features[site][row] for site in sites])

    _, report = run(World(mixed), codebook=BOOK)
    for row in range(3):
        assert [k for k in range(30) if report.computed[k, row]] == reference(lambda k, row=row: modules(k, row), 30, BOOK)


def test_rows_of_a_sample_share_one_change():
    _, report = run(World(mixed), groups=(0, 1, 0), codebook=BOOK)
    assert (report.computed[:, 0] == report.computed[:, 2]).all()


def test_a_residual_is_reused_on_a_stream_that_moves():
    outputs, report = run(World(exponential), codebook=BOOK, target="residual")
    for row in range(3):
        alone, _ = run(World(exponential, labels=(row,)), codebook=BOOK, target="residual")
        assert all(torch.equal(a[row], b[0]) for a, b in zip(outputs, alone, strict=True))
    assert len(report.full_steps) < 30


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_what_has_no_change_is_computed(bad):
    """Features that are zero, or no numbers, have no relative change; the other rows do not mind."""
    _, report = run(World(replaced(exponential, 1, bad), parts=()), codebook=BOOK, target="last_block")
    _, usual = run(World(exponential, parts=()), codebook=BOOK, target="last_block")
    assert report.computed[:, 1].all()
    assert (report.computed[:, [0, 2]] == usual.computed[:, [0, 2]]).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 20)), min_size=1, max_size=5, unique_by=lambda pair: pair[0]))
def test_a_codebook_is_read_as_it_is_written(pairs):
    book = tuple(zip(sorted(change for change, _ in pairs), sorted((gap for _, gap in pairs), reverse=True), strict=True))
    assert codebook_from("+".join(f"{change!r}:{gap}" for change, gap in book)) == book


@pytest.mark.parametrize("text", ["", "0.1", "0.1:2+0.05:1", "0.1:2+0.2:3", "0.1:0", "x:2", "0.1:2+", "-1:2"])
def test_what_is_no_codebook_is_refused(text):
    with pytest.raises(foreseer.OptionError, match="write pairs of a rising change"):
        ada_cache(codebook=text)
