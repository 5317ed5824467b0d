"""The laws of a promise: it is broken no more often than stated, it is given where it can be, and it says what it is of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from toy_family import STEPS, ToyFamily, times_of
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.adapters import attach
from foreseer.bench.per_sample import Figures
from foreseer.errors import OptionError
from foreseer.presets import Preset, Promise
from foreseer.registry import policy
from foreseer.workbench.promise import Claim, in_order, run_tests
from foreseer.workbench.tune import TuneSettings, tune

pytestmark = pytest.mark.usefixtures("toy")

CLAIM = Claim(35.0, 0.9, 0.9)


@attrs.frozen(kw_only=True)
class Setting(Figures):
    """A setting whose samples reach 35 dB with a known probability."""

    name: str
    mean_psnr: float
    spread: float

    @property
    def truth(self) -> float:
        return 0.5 * math.erfc((35.0 - self.mean_psnr) / self.spread / math.sqrt(2.0))

    def drawn(self, random: np.random.Generator, count: int) -> Figures:
        psnrs = random.normal(self.mean_psnr, self.spread, count)
        return Figures(psnrs=psnrs.tolist(), ratios=[self.ratio] * count, steps=[1.0] * count, seconds=[1.0] * count)


def settings_around(random: np.random.Generator) -> list[Setting]:
    """Eight settings, each faster than that before, whose success lies around the boundary of 90 %."""
    found = []
    for number in range(8):
        spread = random.uniform(1.0, 6.0)
        mean = 35.0 + spread * random.uniform(0.7, 1.9)
        chosen_on = random.normal(mean, spread, 16)
        found.append(Setting(name=str(number), mean_psnr=mean, spread=spread, psnrs=chosen_on.tolist(), ratios=[0.9 - 0.1 * number] * 16))
    return found


def promised(claim: Claim, found: list[Setting], random: np.random.Generator, tested: int) -> Setting | None:
    """Search, test and choose as `tune` does."""
    by_name = {setting.name: setting for setting in found}
    sequence = [setting.name for setting in in_order(claim, found, samples=tested)]

    def draw(name: str) -> Iterator[Figures]:
        whole, figures = by_name[name].drawn(random, tested), Figures()
        for i in range(tested):
            figures += Figures(**{field: getattr(whole, field)[i : i + 1] for field in ("psnrs", "ratios", "steps", "seconds")})
            yield figures

    held = [test for test in run_tests(claim, sequence, samples=tested, draw=draw) if test.held]
    return by_name[min(held, key=lambda test: test.figures.ratio).policy] if held else None


def test_a_promise_is_broken_no_more_often_than_stated() -> None:
    """Law: over 200 searches, settings at and around the boundary, promises that are false are at most 10 %, within
    what chance allows of so many; and many are given.
    """
    random = np.random.default_rng(16)
    found = [promised(CLAIM, settings_around(random), random, 45) for _ in range(200)]
    broken = sum(setting is not None and setting.truth < CLAIM.share for setting in found)
    assert binom.sf(broken - 1, 200, 1.0 - CLAIM.confidence) > 0.01, broken
    assert sum(setting is not None for setting in found) > 60


def test_settings_that_all_just_miss_are_seldom_promised() -> None:
    """Law: the worst case, in which every setting lies a hair below: choosing the best of eight costs no confidence."""
    random, broken = np.random.default_rng(3), 0
    mean = 35.0 + 2.0 * 1.2815  # 90 % within 2e-5, from below
    for _ in range(200):
        rows = [random.normal(mean, 2.0, 16).tolist() for _ in range(8)]
        found = [Setting(name=str(n), mean_psnr=mean, spread=2.0, psnrs=row, ratios=[0.9 - 0.1 * n] * 16) for n, row in enumerate(rows)]
        assert found[0].truth < CLAIM.share
        broken += promised(CLAIM, found, random, 45) is not None
    assert binom.sf(broken - 1, 200, 1.0 - CLAIM.confidence) > 0.01, broken


def test_what_is_clearly_good_is_promised() -> None:
    """Law: a setting that nearly always reaches it is promised nearly always, beside faster ones that do not."""
    random, kept = np.random.default_rng(1), 0
    for _ in range(100):
        levels = [45.0, 43.0, 33.0, 25.0]
        rows = [random.normal(level, 2.0, 16).tolist() for level in levels]
        found = [
            Setting(name=str(n), mean_psnr=level, spread=2.0, psnrs=row, ratios=[0.8 - 0.2 * n] * 16)
            for n, (level, row) in enumerate(zip(levels, rows, strict=True))
        ]
        chosen = promised(CLAIM, found, random, 45)
        kept += chosen is not None and chosen.name == "1"
    assert kept >= 95


@given(st.floats(0.5, 0.99), st.floats(0.5, 0.99))
def test_the_fewest_samples_are_those_that_all_must_reach(share: float, confidence: float) -> None:
    """Law: n is the least with share^n <= 1 - confidence."""
    claim = Claim(35.0, share, confidence)
    assert share**claim.fewest <= (1.0 - confidence) * (1 + 1e-9)
    assert claim.fewest == 1 or share ** (claim.fewest - 1) > (1.0 - confidence) * (1 - 1e-9)
    assert claim.misses(claim.fewest) >= 0
    assert claim.fewest == 1 or claim.misses(claim.fewest - 1) == -1


@given(st.integers(1, 60), st.floats(0.5, 0.99), st.floats(0.5, 0.99))
def test_the_bound_is_that_of_the_binomial_distribution(samples: int, share: float, confidence: float) -> None:
    """Law: a setting whose true share is that claimed passes with a probability of at most 1 - confidence."""
    claim = Claim(35.0, share, confidence)
    assert binom.cdf(claim.misses(samples), samples, 1.0 - share) <= 1.0 - confidence + 1e-9


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"promise": "psnr > 35"}, "is no promise; write 'psnr>=35 for 95% of samples'"),
        ({"promise": "psnr>=35 for 100% of samples"}, "is out of range: no number of samples shows"),
        ({"confidence": 1.0}, "confidence=1.0 is out of range"),
        ({"tested": 44}, "tested=44 samples promise nothing: psnr>=35 for 95% of samples with confidence 0.9 needs 45 that all reach it; write --tested 45"),
        ({"batch": 4}, "samples that are drawn together may share decisions"),
        ({"promise": None, "tested": 50}, "neither a target nor a promise was given"),
    ],
)
def test_every_wrong_promise_is_told(changes: dict[str, Any], says: str) -> None:
    """Law: before anything is drawn, with what to write."""
    with pytest.raises(OptionError, match=says):
        TuneSettings(**{"policies": "reuse", "promise": "psnr>=35 for 95% of samples", **changes})


def settings(**changes: Any) -> TuneSettings:
    given: dict[str, Any] = {"policies": "taylorseer:target=last_block", "workload": "toy", "promise": "psnr>=40 for 70% of samples", "confidence": 0.8}
    return TuneSettings(**{**given, "ranges": ("interval=1..4", "max_order=0..1"), "samples": 4, "tested": 8, "held_out": 4, "trials": 6, **changes})


def test_the_parts_are_dealt_out_and_share_no_sample() -> None:
    """Law: every sample is in one part, and their order means nothing."""
    chosen, tested, held_out = settings().parts()
    assert sorted([*chosen, *tested, *held_out]) == list(range(16))
    assert (len(chosen), len(tested), len(held_out)) == (4, 8, 4)
    assert chosen != [0, 1, 2, 3]


def test_a_promise_is_in_the_preset_and_in_reports(tmp_path: Path, toy: ToyFamily) -> None:
    """Law: it is read back as it was written, a run as it was made for repeats it, and another does not; a file of
    before there were promises has none.
    """
    preset = tune(settings()).preset
    assert preset is not None
    assert preset.promise is not None
    again = Preset.load(preset.save(tmp_path / "p.json"))
    assert again.promise == preset.promise
    assert (again.promise.samples, again.promise.checked) == (8, 4)
    assert again.held_out is not None
    assert "4 of 16 samples from 0 on" in str(again.held_out)
    x = np.zeros((1, 8), dtype=np.float32)
    import torch

    with attach(toy.model, policy(again)) as attached, attached.run(timesteps=times_of(STEPS)):
        for t in times_of(STEPS):
            toy.model(torch.tensor(x), torch.full((1,), t))
    assert attached.report.promise == str(preset.promise)
    assert "Promised: psnr>=40 for 70% of samples with 80% confidence" in " ".join(str(attached.report).split())
    assert json.loads(attached.report.to_json())["promise"] == str(preset.promise)
    elsewhere = attrs.evolve(again, signature=attrs.evolve(again.signature, num_steps=7, timesteps=()))
    assert elsewhere.promised(attached.report.run) == ""
    assert attrs.evolve(again, promise=None).promised(attached.report.run) == ""


def test_a_promise_is_one_sentence() -> None:
    """Law: with what it is of."""
    made = Promise(at_least=35.0, share=0.95, confidence=0.9, samples=90, reached=89, settings=3, checked=16, checked_reached=16, assumes="samples like those")
    told = "psnr>=35 for 95% of samples with 90% confidence: it held for 89 of 90 samples that it was tested on and 16 of 16 held out; for samples like those"
    assert str(made) == told


def test_an_interrupted_test_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what was drawn of a test is not drawn again, and the promise is that of a search without a stop."""
    whole, file, draw = tune(settings()), tmp_path / "s.db", ToyFamily.draw
    draws, drawn = 0, list[tuple[int, ...]]()

    def stopping(self: ToyFamily, indices: Any, **how: Any) -> Any:
        nonlocal draws
        draws += 1
        if draws in (3, 17, 40, 43):
            raise KeyboardInterrupt
        if self._attached:
            drawn.append(tuple(indices))
        return draw(self, indices, **how)

    monkeypatch.setattr(ToyFamily, "draw", stopping)
    stops = 0
    while True:
        try:
            parts = tune(settings(study=file))
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == 4
    assert [(test.policy, test.reached, test.held) for test in parts.tests] == [(test.policy, test.reached, test.held) for test in whole.tests]
    assert parts.preset == whole.preset
    with pytest.raises(OptionError, match=r"after 6 trials settings were tested, .* write --trials 6, or begin with another --study"):
        tune(settings(study=file, trials=7))
    of_tests = [indices for indices in drawn if indices[0] in settings().parts()[1]]
    assert len(of_tests) == sum(test.figures.samples for test in whole.tests)


def call(*arguments: str) -> Any:
    how = ("--workload", "toy", "--samples", "4", "--tested", "8", "--held-out", "4", "--trials", "4", "--confidence", "0.8", "--ranges", "interval=1..4")
    return CliRunner().invoke(app, ["tune", "taylorseer:target=last_block", *how, *arguments], env={"COLUMNS": "220"})


def test_the_command_promises_or_says_why_not(tmp_path: Path) -> None:
    """Law: 0 with a promise in the file; 1, and no file, where nothing can be promised."""
    done = call("--promise", "psnr>=30 for 70% of samples", "--out", str(tmp_path / "p.json"))
    assert done.exit_code == 0, done.output
    promise = Preset.load(tmp_path / "p.json").promise
    assert promise is not None
    assert f"Promised: {promise}." in " ".join(done.output.split())
    assert "tested, safest first" in done.output
    done = call("--promise", "psnr>=150 for 70% of samples", "--out", str(tmp_path / "none.json"))
    assert done.exit_code == 1
    assert "nothing can be promised: the surest setting" in " ".join(done.output.split())
    assert not (tmp_path / "none.json").exists()


def test_held_out_samples_that_contradict_it_withdraw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the file would have no promise, the command ends with 1 and says why."""
    held_out, draw = settings().parts()[2], ToyFamily.draw

    def worse(self: ToyFamily, indices: Any, **how: Any) -> Any:
        found = draw(self, indices, **how)
        return found + 1.0 if self._attached and indices[0] in held_out else found

    monkeypatch.setattr(ToyFamily, "draw", worse)
    preset = tune(settings()).preset
    assert preset is not None
    assert preset.promise is None
    done = call("--promise", "psnr>=30 for 70% of samples")
    assert done.exit_code == 1
    assert "held-out samples contradict" in " ".join(done.output.split())
