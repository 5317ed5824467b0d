"""Versions of the contract: who is told what, and that what was built for an older one keeps running."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pluggy
import pytest

import foreseer
from foreseer import PluginError, hookspecs, loop, observerspecs, plugins, report, tenure, trial, types, versions
from foreseer.adapters import ArrayBackbone, arrays
from foreseer.describe import describe_plugins
from foreseer.listing import OBSERVERS, load_factory
from foreseer.registry import build_observers, parse_policy
from foreseer.versions import why_incompatible

PACKAGES = Path(__file__).parent / "data" / "plugins"
MODULES = ("tomorrows", "hasty", "blockwatch", "onlooker", "brokenly", "gatewise", "gatewise_rival")
KEPT = ("keepsake", "kept_gate", "kept_predictor", "kept_schedule", "kept_observer")
FROZEN = {
    "keepsake.py": "feaa8a5e3b85aa53",
    "kept_gate.py": "7f216e158f6d35f9",
    "kept_observer.py": "d9f72907fe1788f4",
    "kept_predictor.py": "4e729c05e639f7b1",
    "kept_schedule.py": "1bf28ec9bc6c1a89",
}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    monkeypatch.delenv("FORESEER_NO_PLUGINS", raising=False)

    def put(*folders: str) -> None:
        for folder in folders:
            monkeypatch.syspath_prepend(PACKAGES / folder)

    yield put
    for module in (*MODULES, *KEPT):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("stated", ["1.0", "1.1", "1.2", "1.3", "1.4"])
def test_what_was_built_for_this_contract_or_an_earlier_minor_runs(stated: str) -> None:
    assert foreseer.CONTRACT == "1.4"
    assert why_incompatible(stated) == ""


@pytest.mark.parametrize(
    ("stated", "remedy"),
    [("1.5", "upgrade foreseer"), ("9.0", "upgrade foreseer"), ("0.9", "look for a newer version of it"), ("1", "is no version"), ("one", "is no version")],
)
def test_what_cannot_run_is_told_with_both_versions(stated: str, remedy: str) -> None:
    reason = why_incompatible(stated)
    assert stated in reason
    assert foreseer.CONTRACT in reason
    assert remedy in reason


def test_a_package_that_states_several_is_taken_at_the_highest_that_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "CONTRACT", "1.3")
    stated = [SimpleNamespace(name=name, dist=SimpleNamespace(name="wide")) for name in ("1.10", "1.2", "9.0", "1.0")]
    assert versions.contracts_stated(stated) == {"wide": "1.2"}  # type: ignore[arg-type]


def statuses(*, load: bool) -> dict[str, str]:
    return {f"{p['distribution']}:{p['name']}": p["status"] for p in describe_plugins(load=load)}


def test_each_ailing_package_is_listed_as_what_it_is_and_hurts_nobody(install: Any) -> None:
    """An import error, an unknown hook, a name clash, one for a newer foreseer: all at once, and the others work."""
    install("broken", "unknown_hook", "newer", "unstated", "healthy", "rival")
    seen = statuses(load=False)
    here = f"this foreseer has contract {foreseer.CONTRACT}"
    assert seen["tomorrows:clairvoyant"] == f"incompatible: it was built for contract 9.1 of foreseer, and {here}: upgrade foreseer"
    assert seen["gatewise:halves"] == "conflict: write gatewise:halves"
    assert seen["gatewise-rival:halves"] == "conflict: write gatewise-rival:halves"
    assert {seen[name] for name in ("brokenly:wonky", "blockwatch:blockwatch", "hasty:hasty")} == {"installed"}, "that takes an import to find out"
    assert not {"tomorrows", "brokenly", "blockwatch", "hasty"} & set(sys.modules)

    seen = statuses(load=True)
    assert seen["brokenly:wonky"] == "broken: ModuleNotFoundError: No module named 'a_module_that_was_never_installed'"
    assert "before_block" in seen["blockwatch:blockwatch"]
    assert "Please tell its authors" in seen["blockwatch:blockwatch"]
    assert seen["hasty:hasty"].startswith("broken: ImportError: cannot import name 'NotYetInvented'")
    assert seen["tomorrows:clairvoyant"].startswith("incompatible")
    assert {seen[f"foreseer:{name}"] for name in ("taylorseer", "speca", "taylor")} == {"ok"}
    assert foreseer.policy("speca").name == "speca"


def test_a_package_for_a_newer_contract_is_not_even_imported(install: Any) -> None:
    install("newer")
    with pytest.raises(PluginError, match=r"'clairvoyant' of tomorrows 3\.1 cannot run: it was built for contract 9\.1 .* has contract 1\.4: upgrade foreseer"):
        foreseer.policy("clairvoyant")
    assert "tomorrows" not in sys.modules


def test_a_package_that_needs_something_newer_is_told_with_what_it_asked_pip_for(install: Any) -> None:
    install("unstated")
    with pytest.raises(PluginError, match=rf"asks for 'foreseer>=9', and this is foreseer {foreseer.__version__}\. Please tell the authors of hasty"):
        foreseer.policy("hasty")


def test_an_unknown_hook_names_both_contracts_and_whom_to_tell(install: Any) -> None:
    install("unknown_hook")
    host = ArrayBackbone(lambda site, k: np.ones((2, 3)), depth=2)
    with pytest.raises(
        PluginError, match=r"(?s)before_block.*has contract 1\.4; blockwatch 2\.2 says that it was built for contract 1\.0\. Please tell its authors"
    ):
        foreseer.sample(host, None, range(3), policy="blockwatch", inputs=lambda x, k: k, update=lambda x, output, index: None)


# --- observers by name


def test_observers_can_be_named_with_options(install: Any) -> None:
    """By name and by instance side by side; one observer for all that it is given to; a wrong name or option is an error that names it."""
    install("watcher")
    assert [p.kind for p in foreseer.list_plugins(OBSERVERS) if p.name == "onlooker"] == ["observer"]
    host = ArrayBackbone(lambda site, k: np.ones((2, 3)), depth=2)
    run = functools.partial(foreseer.sample, host, None, range(6), policy="none", inputs=lambda x, k: k, update=lambda x, output, index: None)
    run(observers=["onlooker:every=3"])
    assert sys.modules["onlooker"].log == [0, 3]
    mine = sys.modules["onlooker"].Onlooker(2)
    assert build_observers([mine]) == (mine,)
    with pytest.raises(PluginError, match="no observer is named 'onloker'; did you mean 'onlooker'"):
        run(observers=["onloker"])
    with pytest.raises(foreseer.OptionError, match="onlooker: every=0 is out of range; write a whole number >= 1"):
        run(observers=["onlooker:every=0"])
    with pytest.raises(PluginError, match=r"observers='onlooker' is one name; write a list: observers=\['onlooker'\]"):
        run(observers="onlooker")


# --- the frozen plugin


def smooth(site: foreseer.Site, k: int) -> Any:
    rate = np.array([0.0, 0.02, 0.3])[:, None]
    return np.exp(rate * k) * (1 + 0.1 * site.block) * np.arange(1.0, 5.0)


def drive() -> tuple[foreseer.Report, list[Any], list[Any]]:
    host = ArrayBackbone(smooth, depth=4)
    (diary,) = build_observers(["diary"])
    _, report = foreseer.sample(
        host, None, [900.0 - 50 * k for k in range(12)], policy="keepsake", inputs=lambda x, t: round((900 - t) / 50), update=lambda x, out, k: None,
        sigmas=[1.0 - k / 12 for k in range(12)], observers=[diary],
    )  # fmt: skip
    return report, load_factory("keepsake").__globals__["gates"][-1].log, diary.lines  # type: ignore[attr-defined]


EXPECTED_COMPUTED = [3, 3, 1, 1, 1, 3, 3, 0, 2, 1, 1, 1]


def test_the_frozen_plugins_are_as_they_were() -> None:
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (PACKAGES / "frozen").glob("*.py")}
    assert files == FROZEN, "they are here to be left alone"


@pytest.mark.parametrize(
    ("policy", "computed"),
    [
        ("kept_gate:threshold=0.03", [3, 3, 1, 1, 1, 1, 1, 3, 1, 1, 1, 1]),
        ("kept_gate:threshold=0.03,predictor=(kept_predictor)", [3, 3, 1, 1, 1, 1, 1, 3, 1, 1, 1, 1]),
        ("kept_schedule", [3, 3, 3, 3, 0, 0, 0, 3, 0, 0, 3, 3]),
        ("taylorseer:target=last_block,predictor=kept_predictor", [3, 3, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0]),
    ],
)
def test_what_foreseer_new_wrote_for_contract_1_0_does_what_it_did(install: Any, policy: str, computed: list[int]) -> None:
    """A project of each kind, as it was generated then: made of `foreseer.options`, `foreseer.metrics` and the parts in `foreseer.policies`."""
    install("frozen")
    host = ArrayBackbone(smooth, depth=4)
    options: dict[str, Any] = {"inputs": lambda x, t: int(t), "update": lambda x, out, k: None}
    _, report = foreseer.sample(host, None, range(12), policy=parse_policy(policy), observers=["kept_observer"], **options)
    assert report.computed.sum(1).tolist() == computed
    assert report.warnings == ()


def test_a_plugin_of_contract_1_0_does_what_it_did(install: Any) -> None:
    """What it computes, step by step and row by row, what it is told, and what its observer hears."""
    install("frozen")
    report, log, lines = drive()
    assert report.computed.sum(1).tolist() == EXPECTED_COMPUTED
    assert report.full_steps == [0, 1, 5, 6]
    assert log[0] == (4, 3, (0, 1, 2), 12, tuple(900.0 - 50 * k for k in range(12)), tuple(1.0 - k / 12 for k in range(12)), "")
    assert [entry[0] for entry in log[1::2]] == list(range(12))
    assert lines[0] == ("start", 3)
    assert lines[1:-1] == list(enumerate(EXPECTED_COMPUTED))
    assert lines[-1][:3] == ("end", "keepsake", [0, 1, 5, 6])
    assert "a note for the report" in lines[-1][4]


def test_a_plugin_of_contract_1_0_survives_a_later_minor(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """New arguments of every hook, new hooks, and new fields with defaults in the values that it is handed: it neither sees nor misses them."""
    install("frozen")
    before = drive()

    def widened(specs: type) -> type:
        marker = pluggy.HookspecMarker("foreseer")
        hooks: dict[str, Any] = {}
        for name, hook in vars(specs).items():
            if name.startswith("_"):
                continue
            arguments = [*inspect.signature(hook).parameters, "budget"]
            exec(f"def {name}({', '.join(arguments)}): ...", scope := {})
            hooks[name] = marker(firstresult=hook.foreseer_spec["firstresult"])(scope[name])
        exec("def before_block(self, block): ...", scope := {})
        return type(specs.__name__, (), {**hooks, "before_block": marker(scope["before_block"])})

    monkeypatch.setattr(plugins, "PolicySpecs", widened(hookspecs.PolicySpecs))
    monkeypatch.setattr(plugins, "ObserverSpecs", widened(observerspecs.ObserverSpecs))
    call = plugins.Implementation.__call__
    monkeypatch.setattr(plugins.Implementation, "__call__", lambda self, values: call(self, {**values, "budget": 0.5}))
    for home, name in ((types, "Step"), (trial, "Outcome"), (tenure, "History"), (loop, "Run"), (arrays, "Evidence"), (report, "Report")):
        old = getattr(home, name)
        monkeypatch.setattr(
            home, name, attrs.make_class(name, {"tomorrow": attrs.field(default=1.0, kw_only=True)}, bases=(old,), frozen=True, eq=name == "Step")
        )

    after = drive()
    assert [line for line in after[2] if line[0] != "end"] == [line for line in before[2] if line[0] != "end"]
    assert after[1] == before[1]
    assert after[0].computed.tolist() == before[0].computed.tolist()
