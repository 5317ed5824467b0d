"""The processes in which the kit tries a policy: one of each hash seed, started once, and no task knows of the one before."""

import os

import pytest

from foreseer.testing import elsewhere
from foreseer.testing.elsewhere import in_processes

LOG = "elsewhere_log"


def orders(given):
    """The order of a set of texts, and what the process shows of the tasks before."""
    before = [os.environ.get(LOG, "nothing"), os.path.basename(os.getcwd()), os.environ["PYTHONHASHSEED"]]
    os.environ[LOG] = "left by a task"
    os.chdir("/")
    if given.get("fails"):
        raise ValueError("two lines\nthe last one")
    if given.get("dies"):
        os.kill(os.getpid() if given["dies"] == "itself" else os.getppid(), 9)
    return [*{f"text {number}" for number in range(20)}, *before]


@pytest.fixture(autouse=True)
def _found_by_others(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    monkeypatch.setattr(orders, "__module__", "test_elsewhere")
    monkeypatch.chdir(tmp_path)


def test_a_seed_decides_and_nothing_else(monkeypatch, tmp_path):
    one, other = in_processes(orders, {}, (1, 2))
    assert (one.code, other.code) == (0, 0)
    assert sorted(one.output[:20]) == sorted(other.output[:20])
    assert one.output[:20] != other.output[:20]
    assert one.output[20:] == ["nothing", tmp_path.name, "1"]
    assert other.output[20:] == ["nothing", tmp_path.name, "2"]
    assert in_processes(orders, {}, (2, 1)) == [other, one], "what a task changed is gone"
    monkeypatch.setenv(LOG, "of this process")
    assert in_processes(orders, {}, (1,))[0].output[20] == "of this process"


def test_a_task_that_fails_says_why_and_the_next_is_carried_out():
    (failed,) = in_processes(orders, {"fails": True}, (1,))
    assert (failed.code, failed.output, failed.message) == (1, [], "the last one")
    (died,) = in_processes(orders, {"dies": "itself"}, (1,))
    assert (died.code, died.output) == (1, [])
    assert "signal 9" in died.message
    assert in_processes(orders, {}, (1,))[0].code == 0


def test_a_process_that_ended_is_started_again():
    (died,) = in_processes(orders, {"dies": "all"}, (1,))
    assert died.code
    assert "ended" in died.message
    assert in_processes(orders, {}, (1,))[0].code == 0


def test_an_answer_that_was_not_waited_for_is_no_other_ones(monkeypatch):
    def interrupted(server):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(elsewhere, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            in_processes(orders, {"fails": True}, (1,))
    assert in_processes(orders, {}, (1,))[0].code == 0


def test_where_processes_are_not_copied_a_task_has_one_of_its_own(monkeypatch):
    monkeypatch.setattr(elsewhere, "COPIES", False)
    (done,) = in_processes(orders, {}, (1,))
    assert (done.code, done.output[20]) == (0, "nothing")
    assert not elsewhere._SERVERS
