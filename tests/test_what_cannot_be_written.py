"""Laws of what cannot be written: a folder is a file, a file is a folder, or there is no room. One sentence, no traceback, nothing half-written."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorded import smooth
from typer.testing import CliRunner

import foreseer
from foreseer import Site
from foreseer.__main__ import app
from foreseer.adapters import ArrayBackbone
from foreseer.errors import FileError
from foreseer.files import append, refuse_unwritable, refuse_unwritable_folder, write_csv, write_whole
from foreseer.workbench.features_store import FeatureStore
from foreseer.workbench.ledger import Ledger
from foreseer.workbench.planner import plan
from foreseer.workbench.replay import Replay
from foreseer.workbench.replay_page import write_errors, write_page, write_table

TRACE, LAST = smooth()[0], Site(3)


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may become larger than ``size`` bytes: what a full disk is like."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def a_report() -> foreseer.Report:
    host = ArrayBackbone(lambda site, t: np.ones((2, 3)), depth=3)
    _, report = foreseer.sample(host, None, range(12), policy="taylorseer", inputs=lambda x, t: t, update=lambda x, output, index: None)
    return report


def fails_half_way(part: Path) -> None:
    part.write_bytes(b"half")
    raise ZeroDivisionError


def scores() -> Any:
    return Replay(TRACE, LAST).scores(["taylor"], ["taylorseer:interval=3"])


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_whole(path, "text" * 99),
    "bytes": lambda path: write_whole(path, b"bytes" * 99),
    "table": lambda path: write_csv(path, ("a",), [{"a": "text" * 99}]),
    "trace.safetensors": TRACE.save,
    "plan": lambda path: plan(TRACE).save(path),
    "report": lambda path: a_report().to_json(path),
    "timeline.png": lambda path: a_report().plot(path),
    "timeline.svg": lambda path: a_report().plot(path),
    "scores": lambda path: write_table(scores(), path),
    "errors": lambda path: write_errors(TRACE, scores(), path),
    "page": lambda path: write_page(TRACE, scores(), [], [], path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_without_room_the_old_file_stays_and_nothing_lies_beside_it(name: str, tmp_path: Path) -> None:
    """Law: a file is written whole or not at all, by whatever writes it."""
    path = tmp_path / name
    path.write_text("old")
    with room(64), pytest.raises(FileError, match=r"cannot be written: file too large") as caught:
        WRITERS[name](path)
    assert str(path) in str(caught.value)
    assert [found.name for found in tmp_path.iterdir()] == [name]
    assert path.read_text() == "old"
    WRITERS[name](path)
    assert path.stat().st_size > 64


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_is_a_file_and_a_file_that_is_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / name).mkdir()
    for path in (tmp_path / "file" / name, tmp_path / "file" / "deeper" / name, tmp_path / name):
        with pytest.raises(FileError, match=r"cannot be (made|written)"):
            WRITERS[name](path)
    assert sorted(found.name for found in tmp_path.rglob("*")) == sorted(["file", name])


def test_links_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    """Law: what a link leads to is replaced, not the link; a device is written to."""
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for text in ("one", "two"):
        write_whole(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_text() == text
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", "three")
    assert os.read(reader, 9) == b"three"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe", "real"]


@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "loop"])
def test_what_is_no_name_of_a_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileError, match=r"cannot be (written|made)"):
        write_whole(tmp_path / name, "text")
    if "\0" not in name:
        with pytest.raises(FileError, match="cannot be written"):
            Ledger(path=tmp_path / name)._write({"step": 0})


def test_a_line_for_which_there_is_no_room_is_left_out_whole(tmp_path: Path) -> None:
    append(tmp_path / "lines", "whole\n")
    with room(10), pytest.raises(FileError, match="lines cannot be written: file too large"):
        append(tmp_path / "lines", "too long a line\n")
    assert (tmp_path / "lines").read_text() == "whole\n"


def test_what_fails_for_another_reason_leaves_nothing_either(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_whole(tmp_path / "file", fails_half_way)
    assert not list(tmp_path.iterdir())


def test_before_long_work_paths_are_looked_at_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuse_unwritable(tmp_path / "a" / "b" / "c")
    refuse_unwritable_folder(tmp_path / "a" / "b")
    for refused in (tmp_path, tmp_path / "file" / "a"):
        with pytest.raises(FileError, match=r"is a folder; write|is a file; write"):
            refuse_unwritable(refused)
    with pytest.raises(FileError, match="is a file; write"):
        refuse_unwritable_folder(tmp_path / "file")
    with pytest.raises(FileError, match="is a folder; write"):
        Ledger(path=tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_features_say_that_there_is_no_room_and_those_that_are_whole_stay(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "features", facts={}, kept_as="float32")
    store.add("", {Site(0): torch.ones(1, 4, 8)})
    with room(2000), pytest.raises(FileError, match=r"cannot be written: .*[Ff]ile too large"):
        store.add("", {Site(0): torch.ones(1, 4, 999)})
    assert not list((tmp_path / "features").glob("*.part"))
    assert FeatureStore.open(tmp_path / "features").samples == 1


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), prog_name="foreseer")


def assert_one_sentence(done: Any, *words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("foreseer: ") and not re.match(r"foreseer: \d+ of \d+, ", line)]
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit), "no traceback"
    assert len(lines) == 1, done.output
    assert all(word in lines[0] for word in words), lines[0]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return TRACE.save(tmp_path / "trace.safetensors")


COMMANDS = {
    "compare": ("compare", "--out"),
    "record": ("record", "--out"),
    "bench": ("bench", "run", Path(__file__).parents[1] / "docs" / "benchmarks" / "speca.toml", "--out"),
    "plan": ("plan", "TRACE", "--out"),
    "replay": ("replay", "TRACE", "--out"),
    "tune": ("tune", "reuse", "--speedup", "2", "--out"),
    "study": ("tune", "reuse", "--speedup", "2", "--study"),
    "explain": ("explain", "reuse", "--out"),
    "advise": ("advise", "--out"),
    "new": ("new", "gate", "my-gate", "--path"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_a_path_below_a_file_before_it_computes(command: str, trace: Path, tmp_path: Path) -> None:
    """Law: one sentence, exit status 2, nothing written."""
    (tmp_path / "file").touch()
    given = [trace if part == "TRACE" else part for part in COMMANDS[command]]
    before = sorted(tmp_path.rglob("*"))
    assert_one_sentence(call(*given, tmp_path / "file" / "out"), "file")
    assert sorted(tmp_path.rglob("*")) == before


def test_recording_refuses_its_folders_too(tmp_path: Path) -> None:
    (tmp_path / "t.features").touch()
    assert_one_sentence(call("record", "--out", tmp_path / "t", "--features", "float32"), "t.features is a file")
    assert [path.name for path in tmp_path.iterdir()] == ["t.features"]
    (tmp_path / "index.html").mkdir()
    assert_one_sentence(call("compare", "--out", tmp_path), "index.html is a folder")


@pytest.mark.parametrize("command", ["record", "plan", "tune", "study"])
def test_a_command_refuses_a_folder_where_it_writes_a_file(command: str, trace: Path, tmp_path: Path) -> None:
    folder = tmp_path / f"out.{'json' if command == 'plan' else 'safetensors'}"
    folder.mkdir()
    given = [trace if part == "TRACE" else part for part in COMMANDS[command]]
    assert_one_sentence(call(*given, folder), "is a folder")


def test_recording_without_room_says_so_and_goes_on_with_room(tmp_path: Path) -> None:
    """Law: the sentence is of the disk, and not of what came of it."""
    given = ("record", "--out", tmp_path / "t", "--samples", 1, "--steps", 3, "--sensitivity", "none", "--features", "float32")
    with room(8000):
        done = call(*given)
    assert_one_sentence(done, "cannot be written", "ile too large")
    assert not list(tmp_path.rglob("*.part"))
    done = call(*given)
    assert done.exit_code == 0, done.output


def test_a_study_without_room_says_so(tmp_path: Path) -> None:
    with room(20_000):
        done = call("tune", "reuse", "--speedup", "2", "--samples", 1, "--steps", 4, "--study", tmp_path / "study.db")
    assert_one_sentence(done, "study")
