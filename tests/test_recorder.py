"""Laws of recording: it changes nothing, holds what was computed, refuses what is not full computation, and goes on where it was interrupted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY
from torch import Tensor, nn
from typer.testing import CliRunner

import foreseer
from foreseer import OUTPUT, OptionError, Site, hookimpl
from foreseer.__main__ import app
from foreseer.adapters import ArrayBackbone
from foreseer.bench.families import DiTFamily, PipelineFamily
from foreseer.bench.workload import HERE
from foreseer.document import structured
from foreseer.registry import PolicySpec
from foreseer.workbench import FeatureStore, RecordSettings, Signature, Trace, TraceRecorder, record
from foreseer.workbench.record_settings import recorded_sites, sites_from
from foreseer.workbench.sensitivity import interpolated, one_forecast_errors, steps_to_measure
from foreseer.workbench.trace import site_named
from foreseer.zoo.dit import CONFIG, build

STEPS, DEPTH = 7, 4
LAST = Site(DEPTH - 1)


def waves(rows: Sequence[int], *, stream: bool = False) -> Any:
    """A host whose features differ by site, step and row; a row's do not depend on the others."""

    def feature(site: Site, t: int) -> Any:
        speed = 0.1 * (1 + np.array(rows))[:, None, None]
        return (np.sin(speed * t + site.block + np.arange(6).reshape(2, 3)) + 2.0).astype(np.float32)

    return ArrayBackbone(feature, depth=DEPTH, stream=None if not stream else lambda t: feature(Site(-1), t) * np.float32(0.5))


def run(host: Any, observer: object, policy: str = "none", steps: int = STEPS, **options: Any) -> Any:
    loop: dict[str, Any] = {"inputs": lambda x, t: int(t), "update": lambda x, output, index: output}
    return foreseer.sample(host, None, range(steps), policy=policy, observers=[observer], **loop, **options)


def exact(host: Any, site: Site, rows: Sequence[int]) -> Any:
    """``(T, T)`` inner products of one sample."""
    values = np.array([host._feature(site, t)[list(rows)] for t in range(STEPS)]).astype(np.float64).reshape(STEPS, -1)
    return values @ values.T


@pytest.mark.parametrize("groups", [None, (0, 1, 2, 0, 1, 2), (0, 0, 1, 1, 2, 2)])
def test_inner_products_are_those_of_the_features_summed_over_a_samples_rows(groups: Any) -> None:
    host, recorder = waves(range(6)), TraceRecorder(sites="blocks")
    run(host, recorder, groups=groups)
    trace = recorder.trace()
    members = [[row] for row in range(6)] if groups is None else [[r for r in range(6) if groups[r] == g] for g in range(3)]
    assert trace.samples == len(members)
    assert trace.copies == len(members[0])
    assert trace.sites == (*(Site(b) for b in range(DEPTH)), OUTPUT)
    assert trace.signature.shapes["0.block"] == [2, 3]
    assert recorder.evaluations == STEPS
    for site in trace.sites:
        for sample, rows in enumerate(members):
            np.testing.assert_allclose(trace.gram(site)[sample], exact(host, LAST if site == OUTPUT else site, rows), rtol=1e-12)


RESIDUALS = {Site(DEPTH - 1, since=-1): "residual", Site(DEPTH - 1, since=0): "residual_after_first", Site(2, since=1): "2.block since 1"}


def test_residuals_are_recorded_where_they_are_asked_for() -> None:
    """Law: their inner products are those of what the blocks added; at the output, of what is added to the latent."""
    host, whole = waves(range(3), stream=True), Site(-1, "output", since=-1)
    recorder = TraceRecorder(sites=[*sites_from(",".join(RESIDUALS.values())), whole])
    run(host, recorder)
    trace = recorder.trace()
    assert set(trace.sites) == {*RESIDUALS, whole}
    for site in trace.sites:
        end = LAST if site == whole else site.end
        added = [host._feature(end, t) - (host._feature(Site(site.since), t) if site.since != -1 else host._stream(t)) for t in range(STEPS)]
        values = np.array(added).astype(np.float64).transpose(1, 0, 2, 3).reshape(3, STEPS, -1)
        np.testing.assert_allclose(trace.gram(site), values @ values.transpose(0, 2, 1), rtol=1e-9)


def test_a_host_that_has_no_residuals_cannot_record_them() -> None:
    recorder = TraceRecorder(sites=["residual"])
    run(waves(range(2)), recorder)
    with pytest.raises(OptionError, match=r"record '3.block since -1', a residual, and this host does not say what enters a block"):
        recorder.trace()


def test_a_word_for_a_residual_is_the_site_that_its_target_forecasts() -> None:
    """Law: of one block what those behind the first add is what all add."""
    for depth, first in ((12, 0), (1, -1)):
        asked = sites_from("residual,residual_after_first,last_block")
        assert recorded_sites(asked, depth=depth) == tuple(dict.fromkeys([Site(depth - 1, since=-1), Site(depth - 1, since=first), Site(depth - 1)]))


def test_products_do_not_depend_on_how_many_numbers_are_multiplied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parted = TraceRecorder(), TraceRecorder()
    run(waves(range(2)), whole)
    monkeypatch.setattr("foreseer.workbench.recorder.AT_ONCE", 4)
    run(waves(range(2)), parted)
    np.testing.assert_allclose(parted.trace().gram(LAST), whole.trace().gram(LAST), rtol=1e-12)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_batch_size_does_not_matter(sizes: list[int]) -> None:
    together, apart = TraceRecorder(), TraceRecorder()
    run(waves(range(sum(sizes))), together)
    first = 0
    for size in sizes:
        run(waves(range(first, first + size)), apart)
        first += size
    for site in (Site(0), LAST, OUTPUT):
        assert np.array_equal(together.trace().gram(site), apart.trace().gram(site))


def test_a_run_whose_length_was_not_declared_is_recorded_too() -> None:
    host, recorder = waves(range(2)), TraceRecorder()
    session = foreseer.Session(host, foreseer.policy("none"), foreseer.Run(DEPTH, 2, (0, 1), sites=host.sites), observers=[recorder])
    for t in range(STEPS):
        session.evaluate(t)
    session.finish()
    np.testing.assert_allclose(recorder.trace().gram(LAST)[1], exact(host, LAST, [1]), rtol=1e-12)


@pytest.mark.parametrize("policy", ["reuse:interval=2,target=last_block", "cg_taylor:threshold=0.5,target=last_block,decide=row"])
def test_what_a_policy_forecast_is_refused(policy: str) -> None:
    recorder = TraceRecorder()
    _, report = run(waves(range(2)), recorder, foreseer.registry.parse_policy(policy))  # type: ignore[arg-type]
    assert not report.computed.all()
    assert "only full computation can be recorded" in " ".join(report.warnings)
    with pytest.raises(OptionError, match="policy 'none'"):
        recorder.trace()


def test_a_run_that_broke_off_is_left_out_and_named() -> None:
    recorder = TraceRecorder()

    class Broken(ArrayBackbone):
        def forward(self, inputs: Any, **given: Any) -> Any:
            if inputs == 3:
                raise RuntimeError("out of memory")
            return super().forward(inputs, **given)

    with pytest.raises(RuntimeError):
        run(Broken(waves(range(2))._feature, depth=DEPTH), recorder)
    with pytest.raises(OptionError, match=f"ended after 3 of {STEPS} steps"):
        recorder.trace()
    run(waves(range(2)), recorder)
    assert recorder.trace().samples == recorder.samples == 2


def test_unlike_runs_and_missing_sites_and_broken_numbers_are_refused() -> None:
    recorder = TraceRecorder()
    run(waves(range(2)), recorder)
    run(waves(range(2)), recorder, steps=STEPS + 1)
    with pytest.raises(OptionError, match="unlike the first: 7 steps before, 8 now"):
        recorder.trace()
    recorder = TraceRecorder(sites=[Site(77)])
    run(waves(range(2)), recorder)
    with pytest.raises(OptionError, match=r"77\.block.*0\.block"):
        recorder.trace()
    recorder = TraceRecorder()
    run(ArrayBackbone(lambda site, t: np.full((1, 2), np.nan), depth=2), recorder)
    with pytest.raises(OptionError, match="not finite"):
        recorder.trace()
    recorder = TraceRecorder()
    run(waves(range(3)), recorder, groups=(0, 0, 1))
    with pytest.raises(OptionError, match="1 to 2 rows"):
        recorder.trace()


def test_a_recorder_that_was_dropped_does_not_pass_for_one_that_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory in the second of two batches, say: the first alone is not what was asked for."""
    recorder = TraceRecorder()
    run(waves(range(2)), recorder)

    def fail(past: Tensor, now: Tensor) -> Tensor:
        raise MemoryError

    monkeypatch.setattr("foreseer.workbench.recorder._products", fail)
    _, report = run(waves(range(2, 4)), recorder)
    assert "MemoryError" in " ".join(report.warnings)
    with pytest.raises(OptionError, match="dropped"):
        recorder.trace()


def test_features_that_cannot_be_kept_are_not_passed_over(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "kept", facts={}, kept_as="float16")
    recorder = TraceRecorder(store=store)
    run(ArrayBackbone(lambda site, t: np.full((1, 2), 1e6 + t), depth=2), recorder)
    with pytest.raises(OptionError, match="larger than float16"):
        recorder.trace()


@pytest.mark.parametrize("sites", ["all", [], [3], ["0.block"]])
def test_sites_that_are_none_are_refused(sites: Any) -> None:
    with pytest.raises(OptionError, match="sites="):
        TraceRecorder(sites=sites)
    with pytest.raises(OptionError, match="keep_on='moon'"):
        TraceRecorder(keep_on="moon")


def test_sites_are_read_from_the_command_line() -> None:
    assert sites_from("blocks") == "blocks"
    assert sites_from("0.block, 11.attn,last,output") == (Site(0), Site(11, "attn"), Site(-1), OUTPUT)
    with pytest.raises(OptionError, match="block zero"):
        sites_from("0.block,block zero")


@pytest.mark.parametrize("kind", ["DiTPipeline", "FluxPipeline", "WanPipeline"])
def test_recording_a_pipeline_changes_no_bit_and_holds_what_was_computed(kind: str) -> None:
    """The streams of guidance in two calls are kept apart, and rows of one sample are put together."""

    @attrs.define(eq=False)
    class Keeper:
        kept: dict[str, list[Tensor]] = attrs.field(factory=dict)

        @hookimpl
        def features_wanted(self, run: Any) -> Any:
            return (Site(run.depth - 1),)

        @hookimpl
        def on_features(self, run: Any, features: Any) -> None:
            self.kept.setdefault(run.stream, []).append(features[Site(run.depth - 1)].clone())

    tiny, recorder, keeper = TINY[kind], TraceRecorder(keep_on="cpu"), Keeper()
    plain = tiny.call(tiny.build(), steps=4, batch=2)
    pipe = tiny.build()
    with foreseer.attach(pipe, "none", observers=[recorder, keeper]):
        watched = tiny.call(pipe, steps=4, batch=2)
    assert torch.equal(plain, watched)
    trace = recorder.trace(final=watched)
    assert len(trace.streams) == (2 if tiny.guidance == "sequential" else 1)
    assert trace.copies == tiny.rows_per_sample
    assert trace.signature.model.startswith(type(pipe.transformer).__name__)
    assert trace.signature.scheduler
    assert len(trace.signature.timesteps) == 4
    for stream in trace.streams:
        values = torch.stack(keeper.kept[stream]).double()  # row r is of sample r mod 2
        for sample in range(2):
            own = values[:, sample::2].flatten(1).numpy()
            np.testing.assert_allclose(trace.gram(Site(-1), stream)[sample], own @ own.T, rtol=1e-9)
    np.testing.assert_allclose(trace.final_norm, watched.double().flatten(1).norm(dim=1).numpy())


A, B = 0.9, 0.25


@attrs.define(eq=False)
class Loop:
    """A family whose sensitivities are known: x <- A x + B f(t), so that an error e of f in step k ends as B A^(T-1-k) e."""

    curve: Any = lambda t, rows: np.sin(0.3 * t + np.array(rows)[:, None] + np.arange(5))
    name: str = "loop"
    num_steps: int = STEPS
    guidance: float = 1.0
    model: Any = attrs.field(factory=lambda: nn.Linear(1, 1))
    pipeline: Any = None
    draws: int = 0
    _spec: Any = None
    _observers: Any = ()
    reports: dict[str, Any] = attrs.field(factory=dict)

    def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float) -> Tensor:
        self.draws += 1
        host = ArrayBackbone(lambda site, t: self.curve(t, indices) + site.block, depth=2)
        x, self.reports[""] = foreseer.sample(
            host,
            np.zeros((len(indices), 5)),
            range(num_steps),
            policy=self._spec,
            inputs=lambda x, t: int(t),
            update=lambda x, output, index: A * x + B * output,
            observers=self._observers,
        )
        return torch.from_numpy(x)

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    def words(self, indices: Sequence[int]) -> list[str]:
        return list(map(str, indices))

    @contextmanager
    def attached(self, spec: PolicySpec, *, num_steps: int, samples: int, observers: Sequence[object] = ()) -> Iterator[Any]:
        self._spec, self._observers = spec, observers
        yield self


@pytest.mark.parametrize(("measured", "batch"), [(1, 3), (2, 2), (3, 2), (9, 1)])
def test_some_samples_are_measured_and_the_others_are_not(measured: int, batch: int, tmp_path: Path) -> None:
    family = Loop()
    few = record(family, tmp_path / "few", samples=3, batch=batch, measured=measured).trace
    all_of_them = record(family, tmp_path / "all", samples=3, batch=3, measured=None).trace
    known = np.isfinite(few.sensitivity[:, 1:]).all(axis=1)
    assert known.tolist() == [s < measured for s in range(3)]
    assert np.isnan(few.sensitivity[~known]).all()
    assert few.measured == all_of_them.measured
    assert few.sensitivity[known, 1:] == pytest.approx(all_of_them.sensitivity[known, 1:], rel=1e-5)
    assert few.evaluations == STEPS * (STEPS - 1) * -(-min(measured, 3) // batch)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("target", [None, OUTPUT])
def test_sensitivities_are_those_in_closed_form(every: int, target: Site | None, tmp_path: Path) -> None:
    """Interpolated in logarithms they are exact here, whatever was measured."""
    family = Loop()
    found = record(family, tmp_path / "trace", samples=3, batch=2, every=every, measured=None, target=target)
    measured = steps_to_measure(STEPS, every)
    known = B * A ** (STEPS - 1.0 - np.arange(STEPS))
    np.testing.assert_allclose(found.trace.sensitivity[:, 1:], np.tile(known[1:], (3, 1)), rtol=1e-9)
    assert np.isnan(found.trace.sensitivity[:, 0]).all()
    assert found.trace.measured == measured
    assert found.trace.target == (target or Site(1))
    assert family.draws == 2 * (1 + len(measured))
    assert found.trace.evaluations == 2 * len(measured) * STEPS
    assert found.evaluations == found.trace.evaluations + 2 * STEPS


def test_an_exact_forecast_says_nothing_about_sensitivity(tmp_path: Path) -> None:
    """A sample whose feature is a line is never wrong: there is no error to let through, but in step 1, which has one step before it."""
    family = Loop(curve=lambda t, rows: np.where(np.array(rows)[:, None] == 1, 1.0 + t, np.sin(0.3 * t)) * np.ones(5))
    trace = record(family, tmp_path / "trace", samples=2, every=1).trace
    assert np.isfinite(trace.sensitivity[0, 1:]).all()
    assert np.isfinite(trace.sensitivity[1, 1])
    assert np.isnan(trace.sensitivity[1, 2:]).all()
    assert np.isnan(one_forecast_errors(trace, Site(1), 4)[1])


@given(st.integers(0, 2**31), st.floats(1e-3, 10.0))
def test_rounding_of_a_straight_line_is_no_error(seed: int, slope: float) -> None:
    """Law: features of float32 along a line are off by rounding alone, and nothing is measured by it."""
    draw = np.random.default_rng(seed)
    time = np.arange(8)[None, :, None]
    line = (draw.normal(size=(2, 1, 300)) + slope * draw.normal(size=(2, 1, 300)) * time).astype(np.float32).astype(np.float64)
    trace = Trace(signature=Signature(num_steps=8), depth=1, labels=("0", "1"), grams={("", Site(0)): line @ line.transpose(0, 2, 1)})
    assert np.isnan([one_forecast_errors(trace, Site(0), step) for step in range(2, 8)]).all()


@given(st.integers(2, 60), st.integers(1, 70))
def test_measured_steps_run_from_the_second_to_the_last_two(steps: int, every: int) -> None:
    found = steps_to_measure(steps, every)
    assert found[0] == 1
    assert found[-1] == steps - 1
    assert max(steps - 2, 1) in found
    assert all(0 < b - a <= every for a, b in itertools.pairwise(found))


def test_interpolation_passes_over_what_is_not_known() -> None:
    values = {1: np.array([1.0, np.nan, 0.0]), 3: np.array([100.0, 4.0, 1.0]), 5: np.array([1.0, np.nan, 1.0]), 7: np.array([1.0, 4.0, 1.0])}
    found = interpolated(values, 9)
    np.testing.assert_allclose(found[0, 1:8], [1, 10, 100, 10, 1, 1, 1])
    np.testing.assert_allclose(found[1], [np.nan, np.nan, np.nan, 4, 4, 4, 4, 4, np.nan])
    np.testing.assert_allclose(found[2, 1:4], [0, 0.5, 1])


@pytest.fixture(scope="module")
def dit() -> DiTFamily:
    torch.manual_seed(0)
    model = build({**CONFIG, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3})
    return DiTFamily(model=model.eval().requires_grad_(False))


SMALL: dict[str, Any] = {"samples": 5, "batch": 2, "steps": 6, "every": 3, "measured": None}


def same(a: Trace, b: Trace) -> bool:
    arrays = all(np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True) for name in ("sensitivity", "final_norm"))
    return arrays and all(np.array_equal(a.grams[key], b.grams[key]) for key in a.grams) and (a.signature, a.labels) == (b.signature, b.labels)


def test_a_dit_is_recorded_with_its_labels_and_signature(dit: DiTFamily, tmp_path: Path) -> None:
    found = record(dit, tmp_path / "trace", **SMALL)
    trace = Trace.load(found.path)
    assert same(found.trace, trace)
    assert (trace.samples, trace.num_steps, trace.copies, trace.labels) == (5, 6, 2, ("0", "1", "2", "3", "4"))
    assert trace.sites == (Site(0), Site(2), OUTPUT)
    assert trace.signature.guidance == dit.guidance
    assert trace.signature.conditions
    assert trace.signature.versions["torch"] == torch.__version__
    assert np.isfinite(trace.sensitivity[:, 1:]).all()
    assert (trace.sensitivity[:, 1:] > 0).all()
    assert not list(tmp_path.glob("*unfinished*"))
    assert f"5 samples of 6 steps, sites 0.block, 2.block, output, {found.evaluations} evaluations" in found.summary


def test_a_residual_is_measured_by_forecasting_it_and_is_kept_with_the_rest(dit: DiTFamily, tmp_path: Path) -> None:
    """Law: an error of what the blocks added is an error of what leaves the last."""
    found = record(dit, tmp_path / "trace", **SMALL, sites="last,residual,residual_after_first", target="residual", features="float32")
    trace, site = Trace.load(found.path), Site(2, since=-1)
    assert trace.sites == (Site(2), site, Site(2, since=0))
    assert trace.target == site
    assert (trace.sensitivity[:, 1:] > 0).all()
    values = FeatureStore.open(tmp_path / "trace.features").read(site).astype(np.float64).reshape(5, 6, -1)
    np.testing.assert_allclose(values @ values.transpose(0, 2, 1), trace.gram(site), rtol=1e-9)
    with pytest.raises(OptionError, match=r"target='2.block since 0' is not among the recorded sites"):
        record(dit, tmp_path / "other", **SMALL, target="residual_after_first")


@pytest.mark.parametrize("features", [None, "float32"])
def test_an_interrupted_recording_goes_on_and_ends_as_if_nothing_had_happened(features: Any, dit: DiTFamily, tmp_path: Path) -> None:
    whole = record(dit, tmp_path / "whole", **SMALL, features=features)
    out, interruptions = tmp_path / "parts", 0

    def interrupt(what: str, done: int, total: int) -> None:
        nonlocal interruptions
        if done == interruptions and done < total:
            interruptions += 1
            raise KeyboardInterrupt

    while True:
        try:
            found = record(dit, out, **SMALL, features=features, tell=interrupt)
            break
        except KeyboardInterrupt:
            assert not out.with_suffix(".safetensors").exists()
    assert interruptions == 3 * (1 + len(steps_to_measure(6, 3)))
    assert same(found.trace, whole.trace)
    assert found.trace.evaluations == whole.trace.evaluations
    assert found.evaluations < whole.evaluations
    if features:
        stores = [FeatureStore.open(tmp_path / f"{name}.features") for name in ("whole", "parts")]
        assert all(np.array_equal(stores[0].read(site), stores[1].read(site)) for site in found.trace.sites)


def test_an_unfinished_recording_of_other_settings_is_not_gone_on_with(dit: DiTFamily, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(dit, tmp_path / "trace", **SMALL, features="float32", tell=stop)
    with pytest.raises(OptionError, match="seed was 0, is 1"):
        record(dit, tmp_path / "trace", **SMALL, features="float32", seed=1)
    found = record(dit, tmp_path / "trace", **SMALL, features="float32", seed=1, restart=True)
    with pytest.raises(OptionError, match="exists already"):
        record(dit, found.path, **SMALL)
    before = found.path.read_bytes()
    for sites in ((Site(0),), "default", (Site(-1), Site(0))):
        with pytest.raises(OptionError, match="target="):
            record(dit, found.path, **SMALL, sites=sites, target=Site(1), restart=True)
    with pytest.raises(OptionError, match="restart='if_other' is unknown; write True, False or 'if other'"):
        record(dit, found.path, **SMALL, restart="if_other")  # type: ignore[arg-type]
    assert found.path.read_bytes() == before, "what is there is thrown away once nothing is wrong with what replaces it"


def test_a_recording_goes_on_where_it_fits_and_else_begins_anew(dit: DiTFamily, tmp_path: Path) -> None:
    """Law: `restart="if other"` loses nothing that can be used."""
    told: list[str] = []

    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    for seed, goes_on in ((0, False), (0, True), (1, False)):
        with pytest.raises(KeyboardInterrupt):
            record(dit, tmp_path / "trace", **SMALL, seed=0, tell=stop, restart=True)
        told.clear()
        record(dit, tmp_path / "trace", **SMALL, seed=seed, restart="if other" if goes_on or seed else True, tell=lambda what, done, _: told.append(what))
        assert ("recording samples 0 to 1" in told) != goes_on
    again = record(dit, tmp_path / "trace", **SMALL, seed=1, restart="if other")
    assert again.evaluations > 0, "what is finished is recorded anew"


def test_kept_features_are_those_whose_inner_products_were_recorded(dit: DiTFamily, tmp_path: Path) -> None:
    trace = record(dit, tmp_path / "a", **{**SMALL, "every": None}, features="float32").trace
    half = record(dit, tmp_path / "b", **{**SMALL, "every": None}, features="float16").trace
    assert trace.sensitivity.shape == (5, 0)
    store, smaller = (FeatureStore.open(tmp_path / f"{name}.features") for name in "ab")
    assert (trace.features, store.samples, store.sites) == ("a.features", 5, trace.sites)
    for site in trace.sites:
        values = store.read(site)
        assert values.shape[:3] == (5, 6, 2)
        assert values.dtype == np.float32
        flat = values.astype(np.float64).reshape(5, 6, -1)
        np.testing.assert_allclose(flat @ flat.transpose(0, 2, 1), trace.gram(site), rtol=1e-12)
        assert np.array_equal(store.read(site, sample=3), values[3])
        assert np.array_equal(smaller.read(site), values.astype(np.float16))
    assert half.features == "b.features"


def test_a_store_refuses_what_is_not_there_and_what_is_damaged(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "kept", facts={"seed": 0}, kept_as="float16")
    with pytest.raises(OptionError):
        store.add("", {LAST: torch.full((1, 2, 1, 3), 1e6)})
    store.add("cond", {LAST: torch.ones(1, 2, 1, 3)})
    store.add("uncond", {LAST: torch.ones(1, 2, 1, 3)})
    assert FeatureStore.open(store.folder).streams == ("cond", "uncond")
    for wrong in ({"site": Site(0), "stream": "cond"}, {"site": LAST, "stream": ""}, {"site": LAST, "stream": "cond", "sample": 1}):
        with pytest.raises(OptionError, match="was not"):
            store.read(**wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError):
        FeatureStore.create(store.folder, facts={"seed": 1}, kept_as="float16")
    with pytest.raises(OptionError, match="kept as was float16, is float32"):
        FeatureStore.create(store.folder, facts={"seed": 0})
    file = next(store.folder.glob("*-uncond.safetensors"))
    was = file.read_bytes()
    file.write_bytes(was[:-1] + bytes([was[-1] ^ 1]))
    assert FeatureStore.open(store.folder).read(LAST, "cond").shape == (1, 2, 1, 3)
    with pytest.raises(OptionError, match=r"is damaged: it has checksum \w+, the index says"):
        FeatureStore.open(store.folder).read(LAST, "uncond")
    index = json.loads((store.folder / "index.json").read_text())
    (store.folder / "index.json").write_text(json.dumps({key: value for key, value in index.items() if key != "chunks"}))
    with pytest.raises(OptionError, match="has another content than 'foreseer features 1': KeyError"):
        FeatureStore.open(store.folder)
    (store.folder / "index.json").write_text(json.dumps(index))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(OptionError, match="bytes"):
        FeatureStore.open(store.folder)
    (store.folder / "index.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(OptionError, match="another"):
        FeatureStore.open(store.folder)
    with pytest.raises(OptionError):
        FeatureStore.open(tmp_path)


def test_what_was_written_when_the_output_had_another_name_is_read(tmp_path: Path) -> None:
    """Law: a store, a signature and a site of before the name "output" mean what they meant."""
    from safetensors.torch import load_file, save_file

    store = FeatureStore.create(tmp_path / "kept", facts={})
    values = torch.arange(6.0).view(1, 2, 1, 3)
    store.add("", {OUTPUT: values})
    (file,) = store.folder.glob("*.safetensors")
    save_file({"-1.output": load_file(file)["output"]}, file, {"format": "foreseer features 1"})
    index = json.loads((store.folder / "index.json").read_text())
    index["chunks"][0] |= {"bytes": file.stat().st_size, "sha256": ""}
    (store.folder / "index.json").write_text(json.dumps(index))
    old = FeatureStore.open(store.folder)
    assert old.sites == (OUTPUT,)
    assert np.array_equal(old.read(OUTPUT), values.numpy())
    assert np.array_equal(old.read(OUTPUT, sample=0), values[0].numpy())
    assert site_named("-1.output") == site_named(str(OUTPUT)) == OUTPUT
    before = structured(Signature, {"num_steps": 4, "shapes": {"-1.output": [2, 3]}})
    assert before.conflicts(Signature(num_steps=4, shapes={"output": [2, 4]}))


def test_a_pipeline_is_recorded_as_its_users_call_it(tmp_path: Path) -> None:
    """Two streams: an error in a step is that of both."""
    tiny = TINY["WanPipeline"]

    @attrs.frozen(eq=False, kw_only=True)
    class Family(PipelineFamily):
        """Draws as the tiny pipelines do."""

        @torch.no_grad()
        def draw(self, indices: Sequence[int], *, seed: int, num_steps: int, guidance: float) -> Tensor:
            return torch.cat([tiny.call(self.pipeline, steps=num_steps, batch=len(indices), seed=seed + indices[0])])

    family = Family(name="wan", pipeline=tiny.build(), arguments=lambda indices, guidance: {"prompt": [str(i) for i in indices]}, decoder=lambda p, x: x)
    trace = record(family, tmp_path / "trace", samples=2, batch=2, steps=4, every=2, features="float32").trace
    assert len(trace.streams) == 2
    assert trace.evaluations == 2 * 3 * 4
    assert np.isfinite(trace.sensitivity[:, 1:]).all()
    store = FeatureStore.open(tmp_path / "trace.features")
    assert set(store.streams) == set(trace.streams)
    assert store.read(Site(trace.depth - 1), trace.streams[1]).shape[:3] == (2, 4, 1)


def test_a_pipeline_without_its_conditions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="arguments=lambda"):
        record(TINY["FluxPipeline"].build(), tmp_path / "trace")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("samples", 0),
        ("steps", 0),
        ("batch", 1.5),
        ("seed", -1),
        ("every", 0),
        ("guidance", -1.0),
        ("features", "float8"),
        ("steps", 1001),
        ("keep_on", "cuda"),
        ("keep_on", "abacus"),
    ],
)
def test_settings_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{option}="):
        RecordSettings(**{option: value})


def test_an_option_that_does_not_exist_and_a_target_that_is_not_recorded_are_refused(dit: DiTFamily, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="sample=4"):
        record(dit, tmp_path / "trace", sample=4)
    with pytest.raises(OptionError, match=r"target='1\.block'"):
        record(dit, tmp_path / "trace", **SMALL, target=Site(1))


def test_the_command_says_what_it_costs_and_what_it_wrote(dit: DiTFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HERE, "dit", lambda device, dtype: dit)
    out = tmp_path / "trace.safetensors"
    words = ["record", "--samples", "2", "--steps", "4", "--sensitivity", "every=2", "--sites", "last,output", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "measuring sensitivities at 3 steps takes 3 more samplings" in done.stderr
    assert done.stdout.startswith(str(out))
    assert Trace.load(out).sites == (Site(2), OUTPUT)
    monkeypatch.setitem(HERE, "dit", lambda device, dtype: pytest.fail("the model was loaded for nothing"))
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "exists already" in done.stderr
    for wrong in (
        ["--device", "cuda:9"],
        ["--steps", "1001"],
        ["--keep-on", "cuda:9"],
        ["--sensitivity", "often"],
        ["--sites", "some"],
        ["--workload", "sdxl"],
        ["--dtype", "int8"],
        ["--target", "blocks"],
    ):
        done = CliRunner().invoke(app, ["record", "--out", str(tmp_path / "other"), *wrong])
        assert done.exit_code == 2
        assert wrong[1] in done.stderr
