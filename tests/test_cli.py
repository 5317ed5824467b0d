"""The command line (core/__main__.py)."""

from __future__ import annotations

import email
import inspect
import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import pytest
from typer.testing import CliRunner

import foreseer
from foreseer import listing
from foreseer.__main__ import app
from foreseer.bench.source import Source


@pytest.fixture(autouse=True)
def _wide_page_and_own_plugins(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("FORESEER_NO_PLUGINS", "1")


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments), prog_name="foreseer")


def install(monkeypatch, folder: Path, *plugins: tuple[str, str, str, str]) -> None:
    """Install plugins ``(name, target, distribution, source of its module)`` beside foreseer's own."""
    monkeypatch.syspath_prepend(str(folder))
    installed = listing.entry_points()
    own = list(installed.select(group=listing.POLICIES))
    added = []
    for name, target, distribution, source in plugins:
        module = target.partition(":")[0]
        (folder / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)
        about = email.message_from_string(f"Name: {distribution}\nSummary: About {distribution}.\n")
        entry = SimpleNamespace(name=name, value=target, dist=SimpleNamespace(name=distribution, version="9.1", requires=None, metadata=about))
        entry.load = EntryPoint(name, target, listing.POLICIES).load
        added.append(entry)
    select = lambda group: [*own, *added] if group == listing.POLICIES else installed.select(group=group)  # noqa: E731
    monkeypatch.setattr(listing, "entry_points", lambda: SimpleNamespace(select=select))
    monkeypatch.delenv("FORESEER_NO_PLUGINS")


GATE = """
import foreseer
print("hello from the plugin")
class Gate:
    @foreseer.hookimpl
    def before_step(self, step):
        return None
def odd(*, threshold: float = 0.5, size):
    '''Choose oddly [sic].

    More about it.

    Args:
        size: How large
            it is.
        threshold (float): How strict.

    Returns:
        A gate.
    '''
    return Gate()
def speca():
    '''A namesake.'''
    return Gate()
"""


def table_of(output: str) -> dict[str, str]:
    """First word of each line of a table -> the line."""
    return {line.split()[0]: line for line in output.splitlines() if line.strip() and line.split()[0] not in ("name", "option")}


def test_policies_lists_what_is_installed():
    result = call("policies")
    assert result.exit_code == 0
    lines = table_of(result.stdout)
    for each in foreseer.list_plugins():
        line = lines[each.name]
        assert f"foreseer {foreseer.__version__}" in line
        assert " installed " in line
        assert each.summary() in line


def test_policies_checked_are_imported_and_said_to_be_what_they_are():
    lines = table_of(call("policies", "--check").stdout)
    assert all(" ok " in lines[listing.name] for listing in foreseer.list_plugins())
    assert lines["speca"].split()[1] == "policy"
    assert lines["taylor"].split()[1] == "predictor"


def test_policies_as_json():
    everything = [*foreseer.list_plugins(), *foreseer.list_plugins(listing.OBSERVERS)]
    assert {e["name"]: e["status"] for e in json.loads(call("policies", "--json").stdout)} == {p.name: "installed" for p in everything}
    entries = {e["name"]: e for e in json.loads(call("policies", "--check", "--json").stdout)}
    assert set(entries) == {p.name for p in everything}
    assert entries["taylor"]["kind"] == "predictor"
    assert {entries[name]["kind"] for name in ("none", "reuse", "taylorseer", "planned", "cg_taylor", "speca", "speca_released")} == {"policy"}
    assert {e["status"] for e in entries.values()} == {"ok"}


def test_a_broken_plugin_is_listed_with_its_reason(monkeypatch, tmp_path):
    install(
        monkeypatch,
        tmp_path,
        ("rotten", "rotten_module:make", "rotten-package", "raise ZeroDivisionError('cannot start')"),
        ("quits", "quitting_module:make", "rotten-package", "raise SystemExit('good bye')"),
        ("number", "number_module:make", "rotten-package", "make = 3"),
        ("stumbles", "stumbling_module:make", "rotten-package", "def make():\n    raise ValueError('no [luck]')"),
        ("hookless", "hookless_module:make", "rotten-package", "make = object"),
        ("odd", "odd_module:odd", "odd-package", GATE),
    )
    result = call("policies", "--json")
    assert result.stderr == "", "nothing is imported unless --check is given"
    assert {e["status"] for e in json.loads(result.stdout)} == {"installed"}
    result = call("policies", "--check", "--json")
    assert result.exit_code == 0
    entries = {e["name"]: e for e in json.loads(result.stdout)}
    assert "hello from the plugin" in result.stderr
    status = {name: entry["status"] for name, entry in entries.items()}
    assert status["rotten"] == "broken: ZeroDivisionError: cannot start"
    assert status["quits"] == "broken: SystemExit: good bye"
    assert status["number"].startswith("broken: ")
    assert "not a factory" in status["number"]
    assert status["stumbles"] == "broken: ValueError: no [luck]"
    assert "implements no hook" in status["hookless"]
    assert (status["odd"], entries["odd"]["kind"]) == ("ok", "policy"), "it cannot be built without its size"
    assert {status[p] for p in ("none", "speca", "taylor")} == {"ok"}

    table = table_of(call("policies", "--check").stdout)
    assert "no [luck]" in table["stumbles"]
    assert "Choose oddly [sic]." in table["odd"]
    assert "About rotten-package." in table["number"], "without a docstring, what the package says of itself"


def test_names_that_two_packages_bring_are_marked(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path, ("speca", "odd_module:speca", "odd-package", GATE))
    entries = [e for e in json.loads(call("policies", "--json").stdout) if e["name"] == "speca"]
    assert [e["status"] for e in entries] == ["conflict: write foreseer:speca", "conflict: write odd-package:speca"]
    ambiguous = call("show", "speca")
    assert ambiguous.exit_code == 2
    assert "'odd-package:speca'" in ambiguous.stderr
    assert json.loads(call("show", "odd-package:speca", "--json").stdout)["summary"] == "A namesake."
    assert json.loads(call("show", "foreseer:speca", "--json").stdout)["distribution"] == "foreseer"


@pytest.mark.parametrize("name", [p.name for p in foreseer.list_plugins() if p.distribution == "foreseer"])
def test_show_tells_every_option_of_every_policy(name):
    factory = listing.load_factory(name)
    facts = json.loads(call("show", name, "--json").stdout)
    parameters = inspect.signature(factory).parameters
    assert [o["name"] for o in facts["options"]] == list(parameters)
    for option in facts["options"]:
        default = parameters[option["name"]].default
        assert option["default"] == (default.__name__ if callable(default) else repr(default))
        assert option["values"]
        assert option["meaning"], f"{name}: the docstring says nothing about {option['name']}"
    assert facts["citation"] == foreseer.cite(name)
    assert "Args:" not in facts["description"]

    page = call("show", name)
    assert page.exit_code == 0
    assert foreseer.cite(name) in page.stdout
    assert facts["summary"].replace("``", "") in page.stdout
    lines = table_of(page.stdout)
    for option in facts["options"]:
        assert option["values"] in lines[option["name"]]
        assert option["default"] in lines[option["name"]]


def test_show_reads_ranges_and_meanings():
    options = {o["name"]: o for o in json.loads(call("show", "speca", "--json").stdout)["options"]}
    assert options["threshold_decay"]["values"] == "a number in (0, 1]"
    assert options["max_draft_steps"]["values"] == "a whole number >= 1 or None"
    assert options["decide"]["values"] == "one of 'row', 'batch'"
    assert options["verify_block"]["values"] == "int"
    assert options["predictor"]["values"] == "str | Callable[..., Any]"
    assert options["threshold_floor"]["meaning"] == "The threshold never falls below this."


def test_show_reads_a_foreign_factory(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path, ("odd", "odd_module:odd", "odd-package", GATE))
    facts = json.loads(call("show", "odd", "--json").stdout)
    assert facts["summary"] == "Choose oddly [sic]."
    assert facts["description"] == "More about it."
    assert facts["version"] == "9.1"
    assert facts["options"] == [
        {"name": "threshold", "default": "0.5", "values": "float", "meaning": "How strict."},
        {"name": "size", "default": "required", "values": "", "meaning": "How large it is."},
    ]


def test_an_unknown_name_is_one_clear_line():
    result = call("show", "spca")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "foreseer: no policy is named 'spca'; did you mean 'speca'? (`foreseer policies` lists them)\n"


def test_version():
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"foreseer {foreseer.__version__}\n")


@pytest.fixture
def bench(monkeypatch):
    """Stand in for the benchmark: remembers the settings it was called with."""

    @attrs.frozen
    class CompareSettings:
        policies: tuple[str, ...] = attrs.field(default=("none", "speca:threshold=0.2"), converter=tuple)
        samples: int = 11
        steps: int = 22
        seed: int = 33
        batch: int = 44
        guidance: float = 5.5
        workload: Any = None
        target: Any = None
        observers: tuple[str, ...] = attrs.field(default=(), converter=tuple)
        out: Path = Path("here")

    stand_in = ModuleType("foreseer.bench.comparison")
    calls: list[CompareSettings] = []

    def run_comparison(settings, afterwards=None, ray=None):
        calls.append(settings)
        if stand_in.trouble is not None:
            raise stand_in.trouble
        return SimpleNamespace(interrupted=stand_in.interrupted, failed=())

    chosen = ModuleType("foreseer.bench.compared")
    chosen.CompareSettings = CompareSettings
    monkeypatch.setitem(sys.modules, "foreseer.bench.compared", chosen)
    vars(stand_in).update(CompareSettings=CompareSettings, run_comparison=run_comparison, calls=calls, trouble=None, interrupted=False)
    monkeypatch.setitem(sys.modules, "foreseer.bench.comparison", stand_in)
    return stand_in


def test_compare_leaves_the_defaults_to_the_settings(bench):
    assert call("compare").exit_code == 0
    assert bench.calls == [bench.CompareSettings(workload=Source())]


def test_compare_hands_over_every_option(bench, tmp_path):
    numbers = ("--samples", "1", "--steps", "2", "--seed", "0", "--batch", "4", "--guidance", "0.5", "--dtype", "bfloat16", "--workload", "flux")
    assert call("compare", *numbers, "--policies", "none", "--out", str(tmp_path)).exit_code == 0
    assert bench.calls == [bench.CompareSettings(("none",), 1, 2, 0, 4, 0.5, Source(workload="flux", dtype="bfloat16"), None, (), tmp_path)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--policies", "cg_taylor:predictor=taylor,threshold=0.1", "reuse:interval=4", "speca", "--steps", "7"),
        ("--steps", "7", "--policies=cg_taylor:predictor=taylor,threshold=0.1", "reuse:interval=4", "speca"),
        ("--policies", "cg_taylor:predictor=taylor,threshold=0.1", "--policies", "reuse:interval=4", "speca", "--steps=7"),
    ],
)
def test_several_policies_may_follow_one_option(bench, arguments):
    result = call("compare", *arguments)
    assert result.exit_code == 0, result.stderr
    assert bench.calls[0].policies == ("cg_taylor:predictor=taylor,threshold=0.1", "reuse:interval=4", "speca")
    assert bench.calls[0].steps == 7


def test_a_word_that_belongs_to_no_option_is_refused(bench):
    result = call("compare", "--policies", "none", "--steps", "7", "reuse")
    assert result.exit_code == 2
    assert "reuse" in result.stderr
    assert not bench.calls


def test_a_wrong_policy_is_refused_before_anything_runs(bench):
    result = call("compare", "--policies", "none", "reuse:intervall=4")
    assert result.exit_code == 2
    assert "did you mean 'interval'?" in result.stderr
    assert not bench.calls


def test_help_shows_the_defaults_of_the_settings(bench):
    text = " ".join(call("compare", "--help").stdout.split())
    for default in ("none speca:threshold=0.2", 11, 22, 33, 44, 5.5, "here"):
        assert f"Default: {default}." in text


def test_the_real_settings_have_every_option_of_the_command(monkeypatch):
    from foreseer.bench.compared import CompareSettings

    text = " ".join(call("compare", "--help").stdout.split())
    for field in (*attrs.fields(CompareSettings), *attrs.fields(Source)):
        if field.name == "target":  # by options of its own
            continue
        assert f"--{field.name.replace('_', '-')} " in text
        if not isinstance(field.default, (int, float, str, tuple, Path)) or field.default == () or field.default is False:
            continue
        default = " ".join(field.default) if isinstance(field.default, tuple) else field.default
        assert f"Default:{default}.".replace(" ", "") in text.replace(" ", "")


@pytest.mark.parametrize(
    ("trouble", "status", "line"),
    [
        (foreseer.OptionError("samples=0 is out of range;\nwrite [1]"), 2, "foreseer: samples=0 is out of range; write [1]"),
        (KeyboardInterrupt(), 130, "foreseer: interrupted"),
        (ModuleNotFoundError("No module named 'skimage'", name="skimage"), 1, "foreseer: compare needs skimage: pip install 'foreseer[bench]'"),
    ],
)
def test_trouble_is_one_line_and_a_status(bench, trouble, status, line):
    bench.trouble = trouble
    result = call("compare")
    assert (result.exit_code, result.stderr) == (status, f"{line}\n")


def test_an_unforeseen_error_keeps_its_traceback(bench):
    bench.trouble = RuntimeError("a bug")
    assert call("compare").exception is bench.trouble


def test_an_interrupted_comparison_does_not_end_well(bench):
    bench.interrupted = True
    assert call("compare").exit_code == 130


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_the_module_runs_as_a_program():
    done = run("-m", "foreseer", "show", "taylorsee")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("foreseer: no policy is named 'taylorsee'; did you mean ")
    assert done.stderr.count("\n") == 1


def test_without_typer_it_says_what_to_install():
    done = run("-c", "import sys; sys.modules['typer'] = None; from foreseer.__main__ import main; main()")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "foreseer: the command line needs typer: pip install 'foreseer[cli]'\n"
