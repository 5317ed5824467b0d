"""Laws of making every result anew: what is of other settings begins anew, and nothing on the pages is left out."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import attrs
import pytest
from bench_results import keep_samples, made
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.bench.store import Store
from foreseer.errors import OptionError

ROOT = Path(__file__).parents[1]
with pytest.MonkeyPatch.context() as patch:  # what builds the page is no package: it imports what lies beside it
    patch.syspath_prepend(str(ROOT / "docs" / "_build"))
    make_results = importlib.import_module("make_results")


def test_only_what_is_of_other_settings_begins_anew(tmp_path: Path) -> None:
    """Law: results of the same settings are gone on with, whatever is said; others are refused, or thrown away where that is asked for."""
    old = made(finished=False)
    old.save(tmp_path)
    keep_samples(old, tmp_path)
    other = attrs.evolve(old, settings={"samples": 1}, lanes=())
    same = attrs.evolve(old, lanes=())
    assert Store(tmp_path, restart="if other").resume(same) == old
    assert list((tmp_path / "samples").iterdir())
    with pytest.raises(OptionError, match=r"samples was 8, is 1\. Write another --out, or --restart to begin anew"):
        Store(tmp_path).resume(other)
    assert Store(tmp_path, restart="if other").resume(other) is other
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "restart"), [([], False), (["--restart"], True), (["--restart-other"], "if other"), (["--restart-other", "--restart"], True)]
)
def test_the_command_hands_on_what_is_to_begin_anew(words: list[str], restart: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("foreseer.bench.harness.run_benchmark", lambda settings, out, *, restart, tell, ray: asked.append(restart))
    monkeypatch.setattr("foreseer.bench.tables.print_results", lambda results: None)
    (tmp_path / "one.toml").write_text("workload = 'dit'\n")
    done = CliRunner().invoke(app, ["bench", "run", str(tmp_path / "one.toml"), "--out", str(tmp_path), *words])
    assert (done.exit_code, asked) == (0, [restart]), done.output


def test_everything_on_the_pages_has_a_command_that_makes_it() -> None:
    """Law: but for times on a GPU, which need one. All of it takes under three hours on two cores."""
    results = ROOT / "docs" / "results"
    files = {path.stem for path in results.glob("*.json") if not path.stem.startswith(("h200", "promise"))}
    every = make_results.jobs()
    assert files | {path.parent.name for path in results.glob("*/results.json")} <= {job.name for job in every}
    assert [job.minutes for job in every] == sorted((job.minutes for job in every), reverse=True)
    for job in every:
        outputs = [part for command in job.commands for part in command if part.startswith("docs/results/")]
        assert [Path(output).stem for output in outputs] == [job.name]
    assert sum(job.minutes for job in every) < 2 * 180


@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 16))
def test_more_work_is_estimated_to_take_longer(samples: int, lanes: int, batch: int) -> None:
    """Law: with each sample, lane, solver and reference."""
    tables = [{"policy": "taylorseer", "grid": {"interval": [3, 4, 5][:lanes]}}]
    settings: dict[str, Any] = {"workload": "dit", "samples": samples, "batch": batch, "lanes": tables}
    more: list[dict[str, Any]] = [
        {"samples": samples + batch},
        {"lanes": [*tables, {"policy": "speca", "solver": ["dpmpp_2m"], "steps": 20}]},
        {"peers": [{"peer": "dbcache"}]},
        {"solvers": ["dpmpp_2m"]},
        {"reference": "dpmpp_2m"},
        {"counts": [40]},
    ]
    assert all(make_results.minutes_of({**settings, **one}, None) > make_results.minutes_of(settings, None) for one in more)


def test_what_a_method_computed_before_is_what_it_is_estimated_to_compute() -> None:
    settings = {"workload": "dit", "steps": 10, "samples": 8, "repeats": 0, "lanes": [{"policy": "taylorseer", "grid": {"interval": [3, 5]}}]}
    known = made()  # 4 and 2 of 10 steps, so 3 of plain sampling
    of_batch, of_sample = make_results.A_STEP["dit"]
    assert make_results.minutes_of(settings, known) == pytest.approx((of_batch + 8 * of_sample) * (10 + 3 + 3 + 3) / 60)
