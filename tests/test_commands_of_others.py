"""Laws of commands and presets that other packages bring: entry points of the groups `foreseer.commands` and `foreseer.presets`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import foreseer
from foreseer.presets import find_preset
from foreseer.zoo import presets

HELLO = """
from pathlib import Path
import typer

print("imported")

def hello(name: str, times: int = 1) -> None:
    '''Greet somebody.'''
    for _ in range(times):
        typer.echo(f"hello {name}")

both = typer.Typer()
'''Greet and part.'''

@both.command()
def greet() -> None:
    '''Greet.'''
    typer.echo("hello")

@both.command()
def part() -> None:
    '''Part.'''
    typer.echo("goodbye")

def presets():
    return {"mine": Path(__file__).parent / "mine.json"}
"""
POINTS = """[foreseer.commands]
hello = hello_commands:hello
both = hello_commands:both
gone = hello_gone:gone

[foreseer.presets]
hello = hello_commands:presets
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds a package as pip would have left it there."""
    monkeypatch.delitem(sys.modules, "hello_commands", raising=False)
    about = tmp_path / "hello-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    (tmp_path / "hello_commands.py").write_text(HELLO)
    (tmp_path / "mine.json").write_bytes(next(iter(presets().values())).read_bytes())
    return tmp_path


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from foreseer.__main__ import main; main()"
    shown = {key: value for key, value in os.environ.items() if key != "FORESEER_NO_PLUGINS"}
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=shown)


def test_a_command_is_listed_without_being_imported_and_imported_when_it_is_run(folder: Path) -> None:
    """Law: the list reads docstrings, of functions and of groups; each runs as its package wrote it."""
    listed = run(folder, "--help")
    assert "Greet somebody." in listed.stdout
    assert "Greet and part." in listed.stdout
    assert "imported" not in listed.stdout
    assert run(folder, "hello", "you", "--times", "2").stdout.split("\n")[:3] == ["imported", "hello you", "hello you"]
    assert run(folder, "both", "part").stdout.split("\n")[:2] == ["imported", "goodbye"]


def test_a_command_that_cannot_be_imported_is_told_by_its_package_and_hurts_no_other(folder: Path) -> None:
    """Law: one line and an exit status, when it is run; an unknown name is refused as ever."""
    broken = run(folder, "gone")
    assert broken.returncode == 2
    assert broken.stderr.startswith("foreseer: command 'gone' of hello 1.0 cannot be imported from hello_gone:gone: ModuleNotFoundError")
    assert len(broken.stderr.strip().split("\n")) == 1
    assert run(folder, "policies").returncode == 0
    assert run(folder, "nothing").returncode == 2


def add(folder: Path, points: str) -> None:
    file = folder / "hello-1.0.dist-info" / "entry_points.txt"
    file.write_text(file.read_text() + points)


def test_a_name_that_two_packages_bring_is_nobodys_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: as for policies, an error names both, and the package's name before it picks one: nobody's is taken over."""
    file = folder / "hello-1.0.dist-info" / "entry_points.txt"
    file.write_text(file.read_text().replace("hello = hello_commands:hello", "policies = hello_commands:hello"))
    listed = run(folder, "--help").stdout
    assert "foreseer:policies" in listed
    assert "hello:policies" in listed
    both = run(folder, "policies")
    assert both.returncode == 2
    assert "write 'foreseer:policies' or 'hello:policies'" in " ".join(both.stderr.split())
    assert "taylorseer" in run(folder, "foreseer:policies").stdout
    assert "hello you" in run(folder, "hello:policies", "you").stdout
    name, path = next(iter(presets().items()))
    (folder / "hello_commands.py").write_text(HELLO.replace('"mine"', repr(name)))
    monkeypatch.delenv("FORESEER_NO_PLUGINS")
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(foreseer.OptionError, match=f"foreseer:{name}"):
        find_preset(name)
    assert foreseer.policy(f"foreseer:{name}").preset == find_preset(path)


def test_broken_presets_hurt_nobody_who_does_not_name_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: files, other packages' presets and the error of an unknown policy are as ever."""
    add(folder, "broken = hello_gone:presets\nodd = hello_commands:hello\n")
    monkeypatch.delenv("FORESEER_NO_PLUGINS")
    monkeypatch.syspath_prepend(str(folder))
    assert find_preset(folder / "mine.json") == find_preset("mine") == find_preset(next(iter(presets())))
    with pytest.raises(foreseer.PluginError, match="no policy is named 'taylorser'; did you mean 'taylorseer'"):
        foreseer.policy("taylorser")


def test_a_preset_is_known_by_its_name_once_its_package_is_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: beside those that are bundled, and named where a name is wrong."""
    with pytest.raises(foreseer.OptionError, match="mine"):
        find_preset("mine")
    monkeypatch.delenv("FORESEER_NO_PLUGINS")
    monkeypatch.syspath_prepend(str(folder))
    assert find_preset("mine").policy == find_preset(next(iter(presets()))).policy
    with pytest.raises(foreseer.OptionError, match="did you mean 'mine'"):
        find_preset("minee")
