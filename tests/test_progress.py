"""Laws of what a long command says of how far it is, and of the packages that it lacks."""

import re

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from foreseer import console
from foreseer.console import Pace, needs, progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@given(seconds=st.floats(0.01, 1000), total=st.integers(2, 50), before=st.integers(0, 40), waited=st.floats(0, 100))
def test_even_work_is_estimated_right_whatever_an_earlier_run_had_done(seconds, total, before, waited):
    """Law: at an even pace the estimate is exact from the first piece on, and does not count what was there at the start."""
    clock, total = Clock(), total + before
    pace = Pace(clock)
    clock.now += waited  # loading
    for done in range(before, total):
        pace.told("a piece", done, total)
        if done == before:
            assert pace.left is None
        else:
            assert pace.left == pytest.approx((total - done) * seconds)
            clock.now += seconds / 2
            assert pace.left == pytest.approx((total - done - 0.5) * seconds)
            clock.now -= seconds / 2
        clock.now += seconds
    pace.told("done", total, total)
    assert pace.left is None
    assert pace.spent == pytest.approx(waited + (total - before) * seconds)


@given(told=st.lists(st.tuples(st.text(max_size=3), st.integers(0, 20), st.integers(0, 20), st.floats(0, 50)), max_size=12))
def test_whatever_it_is_told_it_never_promises_less_than_nothing(told):
    pace = Pace(clock := Clock())
    for what, done, total, seconds in told:
        clock.now += seconds
        pace.told(what, done, total)
        assert pace.left is None or pace.left >= 0
        assert (" so far" in str(pace)) == (not 0 < total <= done)


def test_another_count_begins_another_estimate():
    pace = Pace(clock := Clock())
    for done in range(5):
        pace.told("quick", done, 5)
        clock.now += 1
    pace.told("slow", 0, 3)
    assert pace.left is None
    clock.now += 100
    pace.told("slow", 1, 3)
    assert pace.left == pytest.approx(200)


class Said:
    """What stands on stderr so far."""

    def __init__(self, capsys):
        self.capsys, self.text = capsys, ""

    def getvalue(self):
        self.text += self.capsys.readouterr().err
        return self.text


@pytest.fixture
def stderr(capsys):
    return Said(capsys)


def test_redirected_it_speaks_at_once_and_then_seldom(stderr):
    with progress() as tell:
        assert not stderr.getvalue()
        tell("samples 0 to 3", 0, 200)
        assert stderr.getvalue() == "foreseer: 0 of 200, samples 0 to 3 (0 s so far)\n"
        for done in range(1, 200):
            tell("samples", done, 200)
        tell("done", 200, 200)
        assert stderr.getvalue().count("\n") == 1
    assert re.fullmatch(r"foreseer: 200 of 200, done \(\d+ s\)", stderr.getvalue().splitlines()[-1])
    assert stderr.getvalue().count("\n") == 2


def test_a_piece_that_takes_long_does_not_make_it_silent(stderr, monkeypatch):
    """Law: lines come while nothing is told, each at a tenth more of the time that has passed, but not within 10 seconds."""
    clock = Clock()
    monkeypatch.setattr(console, "Pace", lambda: Pace(clock))

    class Quick:
        """An event that is waited for 600 times, a second each, and is then set."""

        def __init__(self):
            self.ended = False

        def wait(self, seconds):
            if clock.now < 600:
                clock.now += seconds
                return False
            return True

        def set(self):
            self.ended = True

    monkeypatch.setattr(console.threading, "Event", Quick)
    monkeypatch.setattr(console.threading, "Thread", Later)
    with progress() as tell:
        tell("sample 0", 0, 3)
        Later.made.target()
    spoken, last = [], 0
    for at in range(1, 601):
        if at - last >= max(10, at / 10):
            spoken.append(at)
            last = at
    assert stderr.getvalue().count("\n") == 1 + len(spoken)
    assert len(spoken) < 40
    assert "foreseer: 0 of 3, sample 0 (10 s so far)\n" in stderr.getvalue()
    assert "foreseer: 0 of 3, sample 0 (2 min so far)\n" in stderr.getvalue()


class Later:
    """A thread whose work the test does itself."""

    def __init__(self, target, daemon):
        Later.made, self.target = self, target

    def start(self):
        pass

    def join(self):
        pass


def test_what_went_wrong_is_the_last_word(stderr):
    def stumble():
        with progress() as tell:
            tell("a piece", 0, 2)
            tell("another", 1, 2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stumble()
    assert stderr.getvalue().count("\n") == 1


@needs("tune", "bench")
def lacking(error):
    """As a command."""
    raise error


DUMMY = "\nFluxPipeline requires the transformers library but it was not found in your environment. You can install it with pip: `pip install\ntransformers`\n"


@pytest.mark.parametrize(("error", "missing"), [(ModuleNotFoundError("No module", name="optuna"), "optuna"), (ImportError(DUMMY), "transformers")])
def test_a_missing_package_is_one_sentence(stderr, error, missing):
    with pytest.raises(typer.Exit) as ended:
        lacking(error)
    assert ended.value.exit_code == 1
    assert stderr.getvalue() == f"foreseer: tune needs {missing}: pip install 'foreseer[bench]'\n"


@pytest.mark.parametrize("error", [ModuleNotFoundError(name="foreseer.gone"), ImportError("cannot import name 'x'", name="numpy"), ValueError("else")])
def test_what_is_no_missing_package_keeps_its_traceback(stderr, error):
    with pytest.raises(type(error)):
        lacking(error)
    assert not stderr.getvalue()
