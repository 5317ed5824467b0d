"""Finding plugins and registering them: what is listed, what is imported, and every mistake that is refused with a name in the message.

The packages in ``tests/data/plugins`` are what pip would have left behind: a folder on the path with a module and its ``.dist-info``.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import foreseer
from foreseer import Plan, PluginError, PolicyConflictError, hookimpl, listing
from foreseer.adapters import ArrayBackbone
from foreseer.registry import parse_policy
from foreseer.spelling import read_spec

CHECKOUT = Path(__file__).parents[1]
PACKAGES = Path(__file__).parent / "data" / "plugins"
MODULES = ("gatewise", "gatewise_rival", "shadowy", "brokenly", "hollow")
BUILT_IN = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["entry-points"]["foreseer.policies"]

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put fake packages on the path, by folder; take them and their modules away again."""
    monkeypatch.delenv("FORESEER_NO_PLUGINS", raising=False)

    def put(*folders: str | Path) -> None:
        for folder in folders:
            monkeypatch.syspath_prepend(PACKAGES / folder)

    yield put
    for module in MODULES:
        sys.modules.pop(module, None)


def listed() -> dict[tuple[str, str], Any]:
    return {(p.distribution, p.name): p for p in foreseer.list_plugins()}


def sample(policy: Any, **options: Any) -> foreseer.Report:
    """Run a policy on a host of constant features, four steps of two rows."""
    host = ArrayBackbone(lambda site, k: np.ones((2, 3)), depth=2)
    return foreseer.sample(host, None, range(4), policy=policy, inputs=lambda x, k: k, update=lambda x, output, index: None, **options)[1]


# --- listing and naming


def test_a_package_is_listed_without_being_imported(install: Install) -> None:
    """Installing a package makes its policies known by name, version and target; its code runs only when it is named."""
    install("healthy")
    found = listed()["gatewise", "halves"]
    assert (found.version, found.target) == ("1.2", "gatewise:halves")
    assert "gatewise" not in sys.modules
    assert sample("halves").full_steps == [0, 2]
    assert "gatewise" in sys.modules


def test_foreseer_s_own_come_first(install: Install) -> None:
    """Built-in policies, then the others, each by name."""
    install("broken", "healthy")
    names = [p.name for p in foreseer.list_plugins()]
    assert names[: len(BUILT_IN)] == sorted(BUILT_IN)
    assert {"halves", "wonky"} <= set(names[len(BUILT_IN) :])


def test_a_broken_package_hurts_only_those_who_name_it(install: Install) -> None:
    """It is listed, and listed as broken when asked for a summary; naming it raises with the package, its version and the cause."""
    install("broken")
    found = listed()["brokenly", "wonky"]
    assert found.summary() == "", "its source is read, not run, and it has no docstring"
    assert foreseer.policy("taylorseer").name == "taylorseer"
    with pytest.raises(PluginError, match=r"'wonky' of brokenly 0\.3 cannot be imported from brokenly:wonky: ModuleNotFoundError") as caught:
        foreseer.policy("wonky")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("name", "message"),
    [("fixed", r"hollow:FIXED of hollow 1\.0 is a float, not a factory"), ("lost", r"'lost' of hollow 1\.0 cannot be imported .*AttributeError")],
)
def test_an_entry_point_must_lead_to_a_factory(install: Install, name: str, message: str) -> None:
    """A value that cannot be called, or a name that does not exist, is the package's fault and the message says whose."""
    install("nothing")
    with pytest.raises(PluginError, match=message):
        foreseer.policy(name)


def test_a_name_in_two_packages_is_a_conflict(install: Install) -> None:
    """Neither wins: the error names both, and either can be picked as distribution:name, in code or on the command line."""
    install("healthy", "rival")
    with pytest.raises(PolicyConflictError) as caught:
        foreseer.policy("halves")
    for words in ("gatewise 1.2", "gatewise-rival 2.0", "'gatewise:halves'", "'gatewise-rival:halves'"):
        assert words in str(caught.value)
    assert sample("gatewise:halves").full_steps == [0, 2]
    assert sample("gatewise-rival:halves").full_steps == [0, 1, 2, 3]
    assert parse_policy("gatewise:halves")() != ()


def test_a_built_in_name_cannot_be_taken(install: Install) -> None:
    """A package that brings a policy called taylorseer does not replace ours in silence."""
    install("shadow")
    with pytest.raises(PolicyConflictError, match="'foreseer:taylorseer' or 'shadowy:taylorseer'"):
        foreseer.policy("taylorseer")
    assert foreseer.policy("foreseer:taylorseer", interval=2).options == {"interval": 2}


def test_one_package_twice_on_the_path_is_no_conflict(install: Install, tmp_path: Path) -> None:
    """An editable install beside its source shows up twice; it is one package."""
    shutil.copytree(PACKAGES / "healthy", tmp_path / "again")
    install("healthy", tmp_path / "again")
    assert [p.distribution for p in foreseer.list_plugins() if p.name == "halves"] == ["gatewise"]


def test_third_parties_can_be_hidden(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """With FORESEER_NO_PLUGINS=1 only our own are there, to be listed or to be named; 0 and nothing hide nobody."""
    install("healthy", "shadow")
    monkeypatch.setenv("FORESEER_NO_PLUGINS", "1")
    assert {p.distribution for p in foreseer.list_plugins()} == {"foreseer"}
    assert foreseer.policy("taylorseer").name == "taylorseer"
    with pytest.raises(PluginError, match="no policy is named 'halves'"):
        foreseer.policy("halves")
    for off in ("0", ""):
        monkeypatch.setenv("FORESEER_NO_PLUGINS", off)
        assert ("gatewise", "halves") in listed()


@pytest.mark.parametrize(
    ("wrong", "message"), [("specca", "did you mean 'speca'"), ("zzzz", "installed: .*taylorseer"), ("speca=1", "does not begin with a plugin")]
)
def test_an_unknown_name_is_answered_with_known_ones(wrong: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        foreseer.policy(wrong)


# --- what foreseer itself ships


def test_built_in_entry_points_are_those_of_the_installed_metadata() -> None:
    """What pyproject.toml declares is what an installed foreseer offers. (If this fails, install the checkout again.)"""
    installed = {e.name: e.value for e in distribution("foreseer").entry_points if e.group == "foreseer.policies"}
    assert installed == BUILT_IN
    assert {p.name for p in foreseer.list_plugins() if p.distribution == "foreseer"} == set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_factories_say_what_they_are_and_whose(name: str) -> None:
    """Each has a docstring whose first line is its summary, and the paper behind it. ``none``, ``taylor`` and ``planned`` have none of their own."""
    summary = listed()["foreseer", name].summary()
    assert summary == " ".join(inspect.getdoc(listing.load_factory(name)).split("\n\n", 1)[0].split())
    assert summary.endswith(".")
    assert foreseer.cite(name).startswith("@") == (name not in ("none", "taylor", "planned", "auto"))


def subprocess_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


def test_importing_foreseer_is_light() -> None:
    """It loads neither the policies nor the adapters nor anything that only the command line, the plots or a host needs; nor does listing them."""
    heavy = ["foreseer.policies", "foreseer.adapters", "diffusers", "transformers", "rich", "typer", "matplotlib", "sklearn", "skimage", "scipy", "jinja2"]
    done = subprocess_python(f"import sys, json, foreseer; foreseer.list_plugins(); print(json.dumps([m for m in {heavy} if m in sys.modules]))")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_importing_core_is_refused() -> None:
    """The checkout's folder is called core; importing it under that name would make a second, broken copy. The message says what to do."""
    done = subprocess_python("import core")
    assert done.returncode != 0
    assert "ImportError: import foreseer, not core: install the package first (pip install -e .)" in done.stderr


# --- registration


class Misspelt:
    @hookimpl
    def befor_step(self, step: Any) -> None: ...


class Defaulted:
    @hookimpl
    def before_step(self, step: Any = None) -> None: ...


class KeywordOnly:
    @hookimpl
    def before_step(self, *, step: Any) -> None: ...


class WrongArgument:
    @hookimpl
    def before_step(self, steps: Any) -> None: ...


class Unmarked:
    @hookimpl
    def setup(self, run: Any) -> None: ...

    def before_step(self, step: Any) -> None: ...


class Wrapper:
    @hookimpl(wrapper=True)
    def before_step(self, step: Any) -> Any:
        return (yield)


class OldWrapper:
    @hookimpl(hookwrapper=True)
    def before_step(self, step: Any) -> Any:
        yield


class NoHooks:
    def plan(self, step: Any) -> None: ...


class StaticDefaulted:
    @staticmethod
    @hookimpl
    def before_step(step: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Misspelt, r"befor_step.*The hooks are setup, before_step, predict_features, verify, commit"),
        (Defaulted, r"before_step: argument 'step' is keyword-only or has a default.*write a plain argument"),
        (StaticDefaulted, r"before_step: argument 'step' is keyword-only or has a default"),
        (KeywordOnly, r"before_step: argument 'step' is keyword-only or has a default"),
        (WrongArgument, r"'steps'.*The hooks are"),
        (Unmarked, r"before_step has the name of a hook but is not marked: write @foreseer\.hookimpl"),
        (Wrapper, r"before_step is a wrapper; hooks of foreseer have no wrappers"),
        (OldWrapper, r"before_step is a wrapper; hooks of foreseer have no wrappers"),
        (NoHooks, r"implements no hook: mark its methods with @foreseer\.hookimpl"),
    ],
)
def test_a_mistake_in_a_plugin_is_refused_before_anything_runs(plugin: type, message: str) -> None:
    """The message names the class, its module, and what is wrong. pluggy itself would pass over most of these in silence."""
    with pytest.raises(PluginError, match=rf"(?s){plugin.__name__} \({plugin.__module__}\).*{message}"):
        sample(plugin)


def test_a_mistake_in_an_installed_policy_names_its_module(install: Install) -> None:
    """The same for a policy that came with pip: one sees whose it is."""
    install("healthy")
    with pytest.raises(PluginError, match=r"(?s)Misspelt \(gatewise\).*befor_step"):
        sample("misspelt")


def test_a_class_is_no_plugin() -> None:
    """A factory that returns the class has forgotten to make an instance."""

    def forgetful() -> type:
        return Misspelt

    with pytest.raises(PluginError, match=r"Misspelt \(.*\) is a class; have you forgotten the \(\)\?"):
        sample(forgetful)


@attrs.define
class EqualSetup:
    """attrs compares by value unless told otherwise, and pluggy takes equal plugins for one."""

    size: int = 1

    @hookimpl
    def setup(self, run: Any) -> None: ...


@attrs.define(eq=False)
class OwnSetup:
    """Compared by identity."""

    calls: list[int] = attrs.field(factory=list)

    @hookimpl
    def setup(self, run: Any) -> None:
        self.calls.append(run.rows)


def test_equal_plugins_are_refused_with_the_remedy() -> None:
    """Two equal plugins cannot be told apart; with eq=False two of the same class are two plugins, and both are asked."""
    with pytest.raises(PluginError, match=r"(?s)EqualSetup \(.*\) cannot be registered: .*write @attrs\.define\(eq=False\)"):
        sample(lambda: (EqualSetup(), EqualSetup()))
    pair = (OwnSetup(), OwnSetup())
    spec = foreseer.PolicySpec("pair", lambda: pair)
    sample(spec)
    assert [plugin.calls for plugin in pair] == [[2], [2]]


class First:
    @hookimpl
    def before_step(self) -> Plan:
        return Plan()

    @hookimpl
    def verify(self) -> None: ...

    @hookimpl
    def predict_features(self) -> None: ...


class SecondStep:
    @hookimpl
    def before_step(self) -> Plan:
        return Plan()


class SecondVerify:
    @hookimpl
    def verify(self) -> None: ...


class SecondPredictor:
    @hookimpl
    def predict_features(self) -> None: ...


@pytest.mark.parametrize(("other", "hook"), [(SecondStep, "before_step"), (SecondVerify, "verify"), (SecondPredictor, "predict_features")])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_decision_has_one_provider(other: type, hook: str, first: bool) -> None:
    """Two plugins of a policy that decide the same thing are refused, in whichever order; both are named, and so is the hook."""
    with pytest.raises(PolicyConflictError, match=f"both provide {hook}; a session has one provider") as caught:
        sample(lambda: (First(), other()) if first else (other(), First()))
    assert f"First ({__name__})" in str(caught.value)
    assert f"{other.__name__} ({__name__})" in str(caught.value)


def test_an_instance_is_no_policy() -> None:
    """A session builds plugins of its own, so an instance is refused, with the factory to write instead."""
    with pytest.raises(PluginError, match=r"SecondStep is a plugin, and a session builds its own: pass the factory.*lambda: SecondStep"):
        foreseer.policy(SecondStep())  # type: ignore[arg-type]


def test_a_session_builds_plugins_of_its_own() -> None:
    """Two runs of one spec share no plugin, so nothing is left over from the first."""
    built: list[OwnSetup] = []

    def factory() -> OwnSetup:
        built.append(OwnSetup())
        return built[-1]

    spec = foreseer.policy(factory)
    sample(spec)
    sample(spec)
    assert [plugin.calls for plugin in built] == [[2], [2]]


def test_an_observer_is_held_to_its_own_hooks() -> None:
    """A policy's hook on an observer is a mistake, and the message lists the hooks of observers."""
    with pytest.raises(PluginError, match=r"(?s)First.*The hooks are features_wanted, on_run_start, on_features, shadow, on_shadow, on_step, on_run_end"):
        sample("none", observers=[First()])


# --- how a plugin and its options are written


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("speca", "speca", {}),
        ("foreseer:speca:threshold=0.2", "foreseer:speca", {"threshold": 0.2}),
        (" speca: threshold = 0.2, decide=batch,", "speca", {"threshold": 0.2, "decide": "batch"}),
        ("a:predictor=(b:scale=0.5,predictor=(c:max_order=2)),threshold=0.1", "a", {"predictor": "b:scale=0.5,predictor=(c:max_order=2)", "threshold": 0.1}),
        ("a:predictor=newton:max_order=2", "a", {"predictor": "newton:max_order=2"}),
        ("a:steps=0,5,10,last=None", "a", {"steps": (0, 5, 10), "last": None}),
        ("a:steps=(0,5),names=['x','y']", "a", {"steps": (0, 5), "names": ["x", "y"]}),
    ],
)
def test_a_plugin_and_its_options_are_read_from_one_line(text: str, name: str, options: dict[str, Any]) -> None:
    assert read_spec(text) == (name, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with a plugin's name"),
        ("speca=1", "does not begin with a plugin's name"),
        ("(taylor:max_order=2", "does not begin with a plugin's name"),
        ("speca:threshold", r"the option 'threshold' has no value; write speca:threshold=value"),
        ("speca:=3", "'=3' is no option; write option=value"),
        ("speca:threshold=", "is no option"),
        ("speca:threshold=0.2,threshold=0.3", "gives 'threshold' twice"),
        ("cg_taylor:predictor=(taylor:max_order=2", "the brackets do not match"),
        ("cg_taylor:predictor=taylor)", "the brackets do not match"),
    ],
)
def test_a_line_that_is_none_says_what_is_wrong_with_it(text: str, message: str) -> None:
    with pytest.raises(foreseer.ForeseerError, match=message):
        parse_policy(text)


def test_a_policy_is_written_the_same_everywhere() -> None:
    """Law: text, text with keywords beside it, and keywords alone are one policy; nothing is said twice."""
    text = "taylorseer:interval=3,max_order=1"
    spec = foreseer.policy(text)
    assert spec == parse_policy(text) == foreseer.policy("taylorseer", interval=3, max_order=1)
    assert foreseer.policy("taylorseer:interval=3", max_order=1) == spec
    assert foreseer.cite(text) == foreseer.cite("taylorseer") != ""
    with pytest.raises(foreseer.OptionError, match=r"'interval' is given in .* write it once"):
        foreseer.policy(text, interval=4)


def test_an_option_without_a_default_is_asked_for() -> None:
    def needy(*, size: int) -> First:
        return First()

    with pytest.raises(foreseer.OptionError, match="policy 'needy' needs the option 'size', which has no default; write needy:size="):
        foreseer.policy(needy)
    assert foreseer.policy(needy, size=3).options == {"size": 3}


def test_a_factory_that_cannot_build_says_with_what() -> None:
    def picky(*, size: int = 3) -> First:
        raise ValueError("no such size")

    with pytest.raises(foreseer.OptionError, match="policy 'picky:size=4' cannot be built: ValueError: no such size"):
        foreseer.policy(picky, size=4)


def test_a_policy_without_a_name_is_called_after_what_it_builds() -> None:
    assert foreseer.policy(lambda: (First(), OwnSetup())).name == "First+OwnSetup"


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_package_that_takes_one_of_our_names_hurts_nobody_who_does_not_write_it(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A rival ``taylor`` must not make an error of every policy that forecasts by Taylor sums and says nothing about it."""
    info = tmp_path / "rival-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[foreseer.policies]\n" + "".join(f"{taken} = rival:make\n" for taken in BUILT_IN))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("FORESEER_NO_PLUGINS", raising=False)
    with pytest.raises(PolicyConflictError):
        foreseer.policy(name)
    assert foreseer.policy(f"foreseer:{name}")() != ()


class _Verdicts:
    """A gate whose verdict is what it is given."""

    def __init__(self, verdict: Callable[[Any], Any]) -> None:
        self.verdict = verdict

    @hookimpl
    def setup(self, run: Any) -> Any:
        return foreseer.Needs(sites=(foreseer.Site(0), foreseer.Site(1)))

    @hookimpl
    def before_step(self, step: Any) -> Any:
        return None if step.index < 1 else Plan(forecast=(foreseer.Site(0), foreseer.Site(1)), probe=foreseer.Probe(0))

    @hookimpl
    def verify(self, evidence: Any) -> Any:
        return self.verdict(evidence.error(foreseer.metrics.relative_l1))


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (lambda error: True, "verify gave a bool; give a foreseer.Verdict, or None"),
        (lambda error: foreseer.Verdict(error, error + 0.3), "verify gave accept as torch.float32; give a bool tensor"),
        (lambda error: foreseer.Verdict(error, [True, True]), "verify gave accept as a list; give a tensor"),
        (lambda error: foreseer.Verdict(error[:1], error < 1), r"verify gave error of shape \(1,\)"),
    ],
)
def test_a_verdict_that_is_none_is_refused(verdict: Any, message: str) -> None:
    """A number is not an answer: 0.3 is true to Python."""
    with pytest.raises(foreseer.ContractError, match=message):
        sample(lambda: (_Verdicts(verdict), foreseer.policies.taylor()))
