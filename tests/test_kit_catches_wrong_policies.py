"""The kit is worth what it catches: each check fails a policy that has the fault which it names, and passes the right one that it was made from."""

import importlib
import os

import pytest
from wrong_policies import RIGHT, WRONG

from foreseer.testing import CHECKS, check_policy

BY_NAME = {check.name: check for check in CHECKS}


@pytest.mark.parametrize("factory", RIGHT, ids=lambda factory: factory.__name__)
def test_what_the_faults_were_put_into_is_right(factory):
    failed = [result for result in check_policy(factory) if result.status == "failed"]
    assert not failed, "\n".join(result.message for result in failed)


@pytest.mark.parametrize(("factory", "check"), WRONG.items(), ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_policy_is_caught_by_the_check_that_names_its_fault(factory, check):
    with pytest.raises(AssertionError) as caught:
        BY_NAME[check](factory)
    message = str(caught.value)
    assert message.startswith(check + ":"), "the message says which check speaks"
    assert BY_NAME[check].law in message, "and the law"


def test_every_check_catches_something():
    by_a_module_of_its_own = {"check_entry_point"}
    assert {check.name for check in CHECKS} == set(WRONG.values()) | by_a_module_of_its_own


SIDE_EFFECTS = {
    "seeds": ("import torch; torch.manual_seed(1)", "the random numbers of torch"),
    "prints": ("print('newton 1.0 is active')", "newton 1.0 is active"),
    "switches": ("import torch; torch.set_default_dtype(torch.float64)", "torch's default dtype"),
    "environment": ("import os; os.environ['FORESEER_KIT_TEST'] = '1'", "the environment"),
    "nothing": ("import torch, json, numpy", ""),
}


@pytest.mark.parametrize("name", SIDE_EFFECTS)
def test_what_an_import_changes_is_found_in_another_process(name, tmp_path, monkeypatch):
    line, found = SIDE_EFFECTS[name]
    module = f"kit_import_{name}"
    guarded = f"import os\nif os.environ.get('KIT_PARENT') != str(os.getpid()):\n    {line}\n"  # not in this process: other tests live in it
    (tmp_path / f"{module}.py").write_text(f"{guarded}from foreseer.policies import none\ndef policy():\n    return none()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KIT_PARENT", str(os.getpid()))
    factory = importlib.import_module(module).policy
    if not found:
        assert "changes nothing" in BY_NAME["check_entry_point"](factory)
        return
    with pytest.raises(AssertionError, match=found):
        BY_NAME["check_entry_point"](factory)


def test_a_policy_that_raises_is_a_failure_that_says_where():
    from foreseer import Plan, hookimpl

    class Clumsy:
        @hookimpl
        def before_step(self, step):
            return Plan() if step.index < 5 else {}["missing"]

    results = {result.check: result for result in check_policy(Clumsy)}
    assert results["check_deterministic"].status == "failed"
    for part in ("KeyError", "in before_step of Clumsy", "at step 5"):
        assert part in results["check_deterministic"].message


def test_what_is_no_policy_fails_one_check_and_the_others_are_skipped():
    class Nothing:
        pass

    results = check_policy(Nothing)
    assert [r.check for r in results if r.status == "failed"] == ["check_hooks_known"]
    assert {r.status for r in results if r.check != "check_hooks_known"} == {"skipped"}
    assert "implements no hook" in next(r.message for r in results if r.status == "failed")
