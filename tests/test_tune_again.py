"""The laws of a `foreseer tune` that is repeated, stopped or gone on with: no batch is drawn twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from toy_family import ToyFamily
from toy_tuning import settings, without_times

from foreseer.bench import kept_draws
from foreseer.errors import FileError, OptionError
from foreseer.workbench.tune import tune

pytestmark = pytest.mark.usefixtures("toy")

DRAW = ToyFamily.draw


def drawing(monkeypatch: pytest.MonkeyPatch, stops: Sequence[int] = ()) -> list[tuple[Any, ...]]:
    """Note what is drawn from now on. Ctrl-C comes once before each draw of these numbers."""
    draw, drawn, left = DRAW, list[tuple[Any, ...]](), set(stops)

    def noted(self: ToyFamily, indices: Sequence[int], *, num_steps: int, **how: Any) -> Any:
        if len(drawn) in left:
            left.remove(len(drawn))
            raise KeyboardInterrupt
        found = draw(self, indices, num_steps=num_steps, **how)
        drawn.append((tuple(indices), num_steps, self._attached))
        return found

    monkeypatch.setattr(ToyFamily, "draw", noted)
    return drawn


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_stopped_search_goes_on_as_if_it_had_not_been(at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: interrupted anywhere, in trials and in the check, and started again, it finds what a search without a stop does, and draws no batch twice."""
    drawn = drawing(monkeypatch)
    whole = tune(settings(at_once=at_once))
    once, file = list(drawn), tmp_path / "sub" / "study.db"
    stops = (0, 3, 9, 14, 24, len(once) - 5, len(once) - 1)
    drawn = drawing(monkeypatch, stops)
    stopped = 0
    while True:
        try:
            parts = tune(settings(study=file, at_once=at_once))
            break
        except KeyboardInterrupt:
            stopped += 1
    assert stopped == len(stops)
    assert without_times(tune(settings(study=file))) == without_times(whole)  # what it was begun with stays
    assert drawn == once
    assert without_times(parts) == without_times(whole)
    assert parts.preset == whole.preset


def test_more_trials_are_added_to_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a study that is done is read, draws nothing again and says the same; one that is asked for more goes on from there."""
    file = tmp_path / "study.db"
    few = tune(settings(study=file, trials=4))
    drawn = drawing(monkeypatch)
    again = tune(settings(study=file, trials=4))
    assert drawn == []
    assert (again.points, again.preset, again.time) == (few.points, few.preset, few.time)
    assert without_times(tune(settings(study=file))) == without_times(tune(settings()))


def test_what_is_chosen_is_not_drawn_again_on_the_samples_it_was_chosen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: without a file, too, no batch is drawn twice, but for trials of policies that are equal."""
    drawn = drawing(monkeypatch)
    found = tune(settings(whole=True))
    assert found.preset is not None
    assert found.preset.tuned.psnr_mean == pytest.approx(found.chosen.mean if found.chosen else None)
    bare = [draw for draw in drawn if not draw[2]]
    assert len(bare) == len(set(bare))
    policies = len({point.policy for point in found.points})
    assert len(drawn) - len(bare) == 2 * policies + 2  # two batches of each, and of the chosen one two that were held out


def test_progress_tells_every_batch_and_ends_at_what_it_expected() -> None:
    """Law: what is done never falls and never passes what there is; the check of the chosen setting counts, batch by batch."""
    told: list[tuple[str, int, int]] = []
    tune(settings(whole=True), tell=lambda *said: told.append(said))
    done = [said[1] for said in told]
    assert done == sorted(done)
    assert {said[2] for said in told} == {done[-1]} == {3 * 13 + 3 + 9}
    checked = [(what, at - 39) for what, at, _ in told if "held-out" in what or "chosen" in what]
    assert [at for _, at in checked] == [0, 0, 0, 2, 3, 3, 7, 9, 11, 12]
    assert checked[-1][0] == "on held-out samples, 3 of 3 samples with as many plain steps"


def test_draws_of_another_model_beside_a_study_are_refused(tmp_path: Path, toy: ToyFamily) -> None:
    """Law: also where the study itself was deleted."""
    file = tmp_path / "study.db"
    tune(settings(study=file, trials=1))
    file.unlink()
    with pytest.raises(OptionError, match=r"study\.db\.draws' was begun with other settings: steps was 10, is 8; delete that folder, or write another"):
        tune(settings(study=file, trials=1, steps=8))


@pytest.mark.parametrize("promised", [False, True])
def test_a_draw_that_cannot_be_read_or_written_is_no_fault_of_a_policy(promised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: it is told; no trial and no test fails of it, and the same command goes on once that is mended."""
    file, batch = tmp_path / "study.db", 1 if promised else 2
    promise = {"target": None, "promise": "psnr>=10 for 60% of samples", "tested": 6} if promised else {}
    given = settings(study=file, trials=2, batch=batch, **promise)
    whole, write, kept = tune(attrs.evolve(given, study=None)), kept_draws.write_whole, list[Path]()

    def full_disk(path: Path, *content: Any) -> Any:
        if len(kept) >= (14 if promised else 3):
            raise FileError(f"{path} cannot be written: no space left on device")
        kept.append(path)
        return write(path, *content)

    monkeypatch.setattr(kept_draws, "write_whole", full_disk)
    with pytest.raises(FileError, match="no space left"):
        tune(given)
    monkeypatch.setattr(kept_draws, "write_whole", write)
    kept[-1].write_bytes(b"{")
    with pytest.raises(OptionError, match=r"is damaged: .*; delete it, and the same command draws it again"):
        tune(given)
    kept[-1].unlink()
    found = tune(given)
    assert without_times(found) == without_times(whole)
    assert not found.failed
    assert [test.error for test in found.tests] == [""] * len(whole.tests)
    assert found.preset == whole.preset


def test_a_study_keeps_how_many_trials_are_asked_for_at_once(tmp_path: Path) -> None:
    """Law: what is tried depends on it, so that a study that goes on with another number is refused."""
    file = tmp_path / "study.db"
    tune(settings(study=file, at_once=2, trials=4))
    with pytest.raises(OptionError, match="at_once=3 is out of range: the study was begun with 2; write --at-once 2"):
        tune(settings(study=file, at_once=3, trials=8))
    alone = tmp_path / "alone.db"
    tune(settings(study=alone, trials=4))
    with pytest.raises(OptionError, match="the study was begun with 1"):
        tune(settings(study=alone, at_once=3, trials=8))
