"""The conformance kit, and what the file says."""

import csv

import numpy as np
import pytest
from foreseer_csvtrace import COLUMNS, csvtrace

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.testing import parametrize_policies


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@parametrize_policies([csvtrace])
def test_conformance(policy, check):
    check(policy)


def session(*watch, steps=8, fails_at=None, policy="cg_taylor", stream="", **options):
    def feature(site, t):
        if t == fails_at:
            raise KeyboardInterrupt
        return 1.0 + 0.001 * float(t) ** 2 * np.ones((2, 3))

    host = ArrayBackbone(feature, depth=3)
    run = foreseer.Run(3, 2, (0, 1), steps, tuple(float(1000 - t) for t in range(steps)), None, host.sites, stream)
    return foreseer.Session(host, foreseer.policy(policy, **options), run, observers=watch)


def read(path="trace.csv"):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_says_what_the_report_says():
    s = session(csvtrace(), steps=10)
    for t in range(10):
        s.evaluate(t)
    report, lines = s.finish(), read()
    assert tuple(lines[0]) == COLUMNS
    assert [int(line["step"]) for line in lines] == list(range(10))
    assert [int(line["rows_computed"]) for line in lines] == report.computed.sum(axis=1).tolist()
    assert [int(line["block_rows"]) for line in lines] == [o.block_rows for o in report.outcomes]
    assert [line["reason"] for line in lines] == report.reasons
    assert lines[0]["timestep"] == "1000.0"
    assert lines[0]["sigma"] == lines[0]["error_min"] == lines[0]["threshold"] == "", "there is no noise level, and nothing was judged"
    assert float(lines[3]["error_max"]) == pytest.approx(max(report.outcomes[3].error))
    assert not report.warnings


def test_an_interrupted_run_keeps_its_lines_and_the_next_has_the_next_number():
    watch = csvtrace()
    s = session(watch, fails_at=5)
    for t in range(5):
        s.evaluate(t)
    with pytest.raises(KeyboardInterrupt):
        s.evaluate(5)
    assert len(read()) == 5, "flushed line by line, before the run is closed"
    s.finish()
    for again in (watch, csvtrace()):  # the same observer, and another one on the same file
        s = session(again, policy="none")
        s.evaluate(0)
        s.finish()
    assert [line["run"] for line in read()] == ["1"] * 5 + ["2", "3"]


def test_streams_that_are_called_in_turn_are_runs_of_their_own():
    watch = csvtrace()
    streams = [session(watch, policy="none", stream=name) for name in ("cond", "uncond")]
    for t in range(3):
        for s in streams:
            s.evaluate(t)
    for s in streams:
        s.finish()
    assert [(line["run"], line["stream"], line["step"]) for line in read()] == [
        (number, name, str(t)) for t in range(3) for number, name in (("1", "cond"), ("2", "uncond"))
    ]


def test_what_is_watched_is_what_is_not():
    watched, alone = session(csvtrace()), session()
    assert all(np.array_equal(watched.evaluate(t), alone.evaluate(t)) for t in range(8))
    watched.finish()


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "trace.csv").write_text("a,b\n1,2\n")
    s = session(csvtrace())
    s.evaluate(0)
    assert "is a file with other columns" in " ".join(s.finish().warnings)
    assert (tmp_path / "trace.csv").read_text() == "a,b\n1,2\n"


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(foreseer.OptionError, match="is not the name of a file"):
        csvtrace(path=str(tmp_path))


def test_it_is_found_by_its_name():
    assert "csvtrace" in {listing.name for listing in foreseer.list_plugins("foreseer.observers")}
