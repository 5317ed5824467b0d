"""Laws of a trace: what inner products say is what the tensors say, and a file is read as it was written or not at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from foreseer import OUTPUT, OptionError, Run, Site
from foreseer.document import plain, structured
from foreseer.workbench import Signature, Trace
from foreseer.workbench.parts import joined
from foreseer.workbench.trace import _digest, site_named, squared_error

SITE = Site(3)


def features(samples: int, steps: int, *, size: int = 40, rough: float = 0.3, seed: int = 0) -> Any:
    """``(S, T, N)`` smooth trajectories of float32 numbers with a large constant part."""
    draw = np.random.default_rng(seed)
    times = np.arange(steps)[None, :, None] / max(steps, 2)
    waves = sum(draw.normal(size=(samples, 1, size)) * rough**order * times**order for order in range(4))
    return (waves + 2.0).astype(np.float32)


def trace_of(values: Any, *, streams: tuple[str, ...] = ("",), **changes: Any) -> Trace:
    exact = values.astype(np.float64)
    gram = exact @ exact.transpose(0, 2, 1)
    samples, steps, size = values.shape
    return Trace(
        **{
            "signature": Signature(num_steps=steps, model="M-1", timesteps=range(steps, 0, -1), dtype="float32", shapes={str(SITE): [size]}, guidance=1.5),
            "depth": 4,
            "labels": [str(i) for i in range(samples)],
            "streams": streams,
            "grams": {(stream, site): gram for stream in streams for site in (SITE, OUTPUT)},
            "sensitivity": np.full((samples, steps), 0.5),
            "target": SITE,
            "measured": (1, steps - 1),
            "evaluations": 7,
            "final_norm": np.ones(samples),
            "final_size": 64,
            **changes,
        }
    )


def said_in(path: Path) -> dict[str, str]:
    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata())


@given(st.integers(3, 20), st.integers(1, 4), st.integers(0, 2**31), st.floats(1e-3, 0.5), st.data())
def test_squared_error_is_that_of_the_tensors(steps: int, count: int, seed: int, rough: float, data: st.DataObject) -> None:
    """To 1e-5 of the error, where the error is as small as a thousandth of the feature's norm."""
    values = features(3, steps, seed=seed, rough=rough)
    trace = trace_of(values)
    draw = np.random.default_rng(seed)
    step = data.draw(st.integers(1, steps - 1))
    index = np.array([step, *draw.integers(0, step, size=count)])
    weights = draw.normal(size=count)
    weights[0] += 1 - weights.sum()  # as those of every predictor that is exact on constants
    error = np.linalg.norm(np.tensordot(values[:, index].astype(np.float64), np.array([-1.0, *weights]), (1, 0)), axis=1)
    said = np.sqrt(squared_error(trace.gram(SITE), index, np.array([-1.0, *weights])))
    large = error >= 1e-3 * np.linalg.norm(values[:, step], axis=1)
    np.testing.assert_allclose(said[large], error[large], rtol=1e-5)


def test_squared_errors_of_many_sums_are_those_of_each() -> None:
    trace, draw = trace_of(features(2, 9)), np.random.default_rng(1)
    index, weights = draw.integers(0, 9, size=(5, 3)), draw.normal(size=(5, 3))
    many = squared_error(trace.gram(SITE), index, weights)
    assert many.shape == (2, 5)
    for n in range(5):
        np.testing.assert_allclose(many[:, n], squared_error(trace.gram(SITE), index[n], weights[n]))


@given(st.integers(2, 12), st.integers(0, 2**31))
def test_embedding_keeps_inner_products(steps: int, seed: int) -> None:
    trace = trace_of(features(2, steps, seed=seed))
    vectors = trace.embedding(SITE)
    gram = trace.gram(SITE)
    assert vectors.shape == (2, steps, steps)
    np.testing.assert_allclose(vectors @ vectors.transpose(0, 2, 1), gram, atol=1e-9 * np.abs(gram).max())


@given(st.integers(2, 12), st.integers(1, 3), st.sampled_from([("",), ("cond", "uncond")]))
def test_a_trace_is_read_as_it_was_written(steps: int, samples: int, streams: tuple[str, ...]) -> None:
    trace = trace_of(features(samples, steps), streams=streams)
    with tempfile.TemporaryDirectory() as folder:
        read = Trace.load(trace.save(Path(folder, "some")))
    for field in attrs.fields(Trace):
        mine, theirs = getattr(trace, field.name), getattr(read, field.name)
        if field.name == "grams":
            assert list(mine.keys()) == sorted(theirs.keys(), key=list(mine).index)
            assert all(np.array_equal(mine[key], theirs[key]) for key in mine)
        elif isinstance(mine, np.ndarray):
            assert np.array_equal(mine, theirs)
        else:
            assert tuple(mine) == theirs if isinstance(mine, (list, tuple)) else mine == theirs, field.name


def test_sixteen_samples_of_fifty_steps_at_three_sites_and_in_two_streams_take_less_than_a_megabyte(tmp_path: Path) -> None:
    values = features(16, 50)
    gram = values.astype(np.float64) @ values.astype(np.float64).transpose(0, 2, 1)
    streams = ("cond", "uncond")
    trace = trace_of(values, streams=streams, grams={(stream, site): gram for stream in streams for site in (Site(0), SITE, OUTPUT)})
    assert trace.save(tmp_path / "trace").stat().st_size < 1_000_000


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = trace_of(features(2, 6)).save(tmp_path / "trace.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(OptionError, match=r"was changed.*checksum"):
        Trace.load(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OptionError):
        Trace.load(path)
    path.write_bytes(b"a line of text")
    with pytest.raises(OptionError):
        Trace.load(path)
    with pytest.raises(OptionError, match="foreseer record"):
        Trace.load(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    "change",
    [{"target": None}, {"labels": ["0"]}, {"final_size": 1}, {"signature": {"num_steps": 6, "model": "M-2"}}, {"seed": 3}],
)
def test_what_is_said_of_the_numbers_cannot_be_changed(change: dict[str, Any], tmp_path: Path) -> None:
    """Law: the checksum is one of the numbers and of what they are said to be."""
    path = trace_of(features(2, 6)).save(tmp_path / "trace.safetensors")
    said, tensors = said_in(path), load_file(path)
    save_file(tensors, path, said)
    assert Trace.load(path).samples == 2
    save_file(tensors, path, said | {"trace": json.dumps(json.loads(said["trace"]) | change)})
    with pytest.raises(OptionError):
        Trace.load(path)


@pytest.mark.parametrize("change", [{"labels": ["0"]}, {"signature": {}}, {"signature": {"num_steps": 5}}, {"target": "attic"}, {"depth": None, "target": 3}])
def test_a_whole_file_that_says_what_cannot_be_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    """Law: also where the checksum is right."""
    path = trace_of(features(2, 6)).save(tmp_path / "trace.safetensors")
    said, tensors = said_in(path), load_file(path)
    text = json.dumps(json.loads(said["trace"]) | change)
    save_file(tensors, path, said | {"trace": text, "sha256": _digest(tensors, text)})
    with pytest.raises(OptionError, match=r"another content than .*record again"):
        Trace.load(path)


def test_files_of_others_and_of_later_formats_are_refused_by_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(OptionError, match="says it is 'nothing'"):
        Trace.load(path)
    save_file(load_file(trace_of(features(1, 3)).save(tmp_path / "trace")), path, {"format": "foreseer trace 9"})
    with pytest.raises(OptionError, match=r"foreseer trace 9.*foreseer trace 1"):
        Trace.load(path)


def test_a_site_or_stream_that_was_not_recorded_is_refused_by_name() -> None:
    trace = trace_of(features(1, 4))
    assert trace.gram(Site(-1)) is not None
    with pytest.raises(OptionError, match=r"1\.attn.*3\.block"):
        trace.gram(Site(1, "attn"))
    with pytest.raises(OptionError, match="cond"):
        trace.gram(SITE, "cond")


def test_streams_add_up() -> None:
    trace = trace_of(features(2, 5), streams=("cond", "uncond"))
    np.testing.assert_array_equal(trace.gram(SITE), trace.gram(SITE, "cond") + trace.gram(SITE, "uncond"))
    np.testing.assert_allclose(trace.norms(SITE, "cond"), np.linalg.norm(features(2, 5), axis=2), rtol=1e-6)


SAME = Signature(model="M-1", scheduler="S-1", num_steps=3, timesteps=(900, 500, 100), guidance=1.5, dtype="float32", shapes={"0.block": [4, 8]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "M-2"}, "model M-1 before, M-2 now"),
        ({"scheduler": "S-2"}, "scheduler S-1 before, S-2 now"),
        ({"num_steps": 4, "timesteps": ()}, "3 steps before, 4 now"),
        ({"timesteps": (900, 510, 100)}, "timesteps that differ"),
        ({"guidance": 2.0}, "guidance 1.5 before, 2 now"),
        ({"dtype": "bfloat16"}, "float32 before, bfloat16 now"),
        ({"shapes": {"0.block": [4, 9]}}, "features of 0.block"),
    ],
)
def test_a_signature_names_what_differs(change: dict[str, Any], said: str) -> None:
    (found,) = SAME.conflicts(attrs.evolve(SAME, **change))
    assert said in found


@pytest.mark.parametrize(
    "change", [{"model": ""}, {"scheduler": ""}, {"timesteps": ()}, {"guidance": None}, {"dtype": ""}, {"shapes": {}}, {"conditions": "x"}]
)
def test_a_signature_does_not_compare_what_is_not_known_or_may_differ(change: dict[str, Any]) -> None:
    assert SAME.conflicts(attrs.evolve(SAME, **change)) == []


def test_a_signature_holds_against_a_run_and_with_other_steps_if_allowed() -> None:
    run = Run(1, 2, (0, 1), 4, (900.0, 600.0, 300.0, 1.0), model="M-1", scheduler="S-1")
    assert len(SAME.conflicts(run)) == 1
    assert SAME.conflicts(run, other_steps=True) == []
    assert structured(Signature, {**plain(SAME), "of a later version": 1}) == SAME


def test_joined_traces_hold_all_samples_and_unlike_ones_are_refused() -> None:
    values = features(5, 6)
    whole, parts = trace_of(values), [trace_of(values[:2]), trace_of(values[2:])]
    both = joined(parts)
    assert both.samples == 5
    assert np.array_equal(both.gram(SITE), whole.gram(SITE))
    assert both.evaluations == 14
    with pytest.raises(OptionError, match="6 steps before, 7 now"):
        joined([parts[0], trace_of(features(2, 7))])


@pytest.mark.parametrize("site", [Site(0), Site(11, "attn"), OUTPUT, Site(11, since=-1), Site(27, since=13), Site(-1, "output", since=-1)])
def test_sites_are_read_as_they_are_written(site: Site) -> None:
    assert site_named(str(site)) == site


def test_residuals_are_kept_and_read_with_the_rest(tmp_path: Path) -> None:
    """Law: they stand behind the output of the block that they end in, in a file as in memory."""
    sites = (Site(3), Site(3, since=-1), Site(3, since=0), OUTPUT, Site(-1, "output", since=-1))
    values = features(2, 5).astype(np.float64).round()
    trace = trace_of(values, grams={("", site): (n + 1) * values @ values.transpose(0, 2, 1) for n, site in enumerate(reversed(sites))}, target=sites[1])
    read = Trace.load(trace.save(tmp_path / "trace"))
    assert trace.sites == read.sites == sites
    assert read.target == sites[1]
    for site in sites:
        assert np.array_equal(read.gram(site), trace.gram(site))
    with pytest.raises(OptionError, match=r"'3.block since 1' was not recorded"):
        read.gram(Site(3, since=1))
