"""The conformance kit: every built-in policy keeps its laws, deviations are named and explained, and the kit has a pytest face and a plain one."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import foreseer
from foreseer import OptionError, Weights, hookimpl, policy
from foreseer.testing import CHECKS, capabilities_of, check_policy, parametrize_policies

LAGGED = {"check_accounting": "as released: a draft above the threshold is used all the same, and the next step is computed"}
DENSE = "0+1+3+5+8+11/14"
UNSEEN = {"check_accounting": "as released: drafts are accepted unseen, whatever their error, until there were min_draft_steps in a row"}


@parametrize_policies(["auto", "none", "reuse", "taylor", "taylorseer", "cg_taylor", "speca"])
def test_built_in(policy, check):
    check(policy)


@parametrize_policies(
    [
        "taylor:axis=log_snr,max_order=2",
        "corrector",
        "corrector:max_order=2",
        f"planned:schedule={DENSE},interpolate=True,predictor=corrector",
        "taylorseer:target=output",
        "taylorseer:target=last_block",
        "taylorseer:target=residual",
        "cg_taylor:target=output",
        "cg_taylor:target=residual_after_first",
        "cg_taylor:decide=batch",
        "speca:decide=batch,target=last_block,max_draft_steps=None",
        "speca:target=residual",
        "agreement",
        "agreement:decide=batch",
    ]
)
def test_built_in_with_other_options(policy, check):
    check(policy)


@parametrize_policies(["speca:on_reject=next_step"], expected_failures=LAGGED)
def test_policies_that_act_one_step_later(policy, check):
    check(policy)


@parametrize_policies(["speca:min_draft_steps=2"], expected_failures=UNSEEN)
def test_a_policy_that_accepts_unseen(policy, check):
    check(policy)


@parametrize_policies(
    [
        "planned",
        f"planned:schedule={DENSE},interpolate=True",
        f"planned:schedule={DENSE},interpolate=True,target=modules,max_order=2",
        f"planned:schedule={DENSE},interpolate=True,gate=(cg_taylor:threshold=0.1)",
        f"planned:schedule={DENSE},interpolate=True,gate=(speca:threshold=0.3),target=modules",
    ]
)
def test_planned(policy, check):
    check(policy)


def test_all_built_in_policies_are_examined():
    examined = {"agreement", "auto", "corrector", "none", "reuse", "taylor", "taylorseer", "planned", "cg_taylor", "speca", "speca_released"}
    assert {p.name for p in foreseer.list_plugins() if p.distribution == "foreseer"} == examined


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_says_what_why_and_what_it_would_have_caught(check):
    law, *rest = inspect.cleandoc(check.function.__doc__).split("\n\n")
    assert check.name == check.function.__name__
    assert check.law == law.replace("\n", " ")
    assert law.endswith(".")
    assert [p.split(":")[0] for p in rest[-2:]] == ["Why", "Would have caught"]


def test_capabilities_are_what_the_plugins_declare():
    can = capabilities_of("speca")
    assert (can.decide, can.verified, can.max_draft_steps, can.exact_degree, can.linear) == ("row", True, 5, 1, True)
    assert capabilities_of("speca_released").decide == "batch"
    assert not capabilities_of("speca:min_draft_steps=2").verified
    assert capabilities_of("taylorseer:interval=6").max_draft_steps == 5
    assert capabilities_of("taylor:max_order=0").exact_degree == 0
    assert capabilities_of("cg_taylor").exact_degree == 1


def test_the_plain_face_tells_passed_skipped_expected_and_out_of_date_apart():
    reasons = {**LAGGED, "check_identity": "an old one"}
    results = {r.check: r for r in check_policy("speca_released", expected_failures=reasons)}
    assert results["check_accounting"].status == "expected"
    assert results["check_accounting"].message.startswith(LAGGED["check_accounting"])
    assert results["check_identity"].status == "failed"
    assert "take it out" in results["check_identity"].message
    assert [r.check for r in results.values() if r.status == "failed"] == ["check_identity"]
    assert results["check_groups"].status == "skipped"
    assert "decide='batch'" in results["check_groups"].message
    assert results["check_deterministic"].status == "passed"
    assert results["check_deterministic"].seconds > 0
    assert len(results) == len(CHECKS)


def test_an_observer_may_be_named_with_its_distribution(monkeypatch):
    monkeypatch.delenv("FORESEER_NO_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(Path(__file__).parent / "data" / "plugins" / "frozen")
    assert capabilities_of("keepsake:diary").observer
    assert not capabilities_of("keepsake:keepsake").observer


class OnlyCounts:
    @hookimpl
    def before_step(self, step):
        return None


def test_the_pytest_face_makes_a_test_of_each_law_that_applies():
    mark = parametrize_policies([OnlyCounts, policy("speca", threshold=0.2)], expected_failures={"check_accounting": "because"})
    (names, parameters), ids = mark.args, [p.id for p in mark.args[1]]
    assert names == ("policy", "check")
    assert "OnlyCounts-check_plan_valid" in ids
    assert "OnlyCounts-check_nan_rejected" not in ids, "it judges nothing"
    assert "speca:threshold=0.2-check_nan_rejected" in ids
    marked = {p.id: p.marks for p in parameters if p.marks}
    assert set(marked) == {"OnlyCounts-check_accounting", "speca:threshold=0.2-check_accounting"}
    for (mark,) in marked.values():
        assert mark.name == "xfail"
        assert mark.kwargs["strict"] is True
        assert mark.kwargs["reason"] == "because"


@pytest.mark.parametrize(
    "face", [lambda names: check_policy("none", expected_failures=names), lambda names: parametrize_policies(["none"], expected_failures=names)]
)
def test_an_expected_failure_of_no_check_is_refused(face):
    with pytest.raises(ValueError, match=r"'check_nan_reject'.*did you mean 'check_nan_rejected'"):
        face({"check_nan_reject": "a typing error"})


def test_an_expected_failure_of_a_check_that_says_nothing_about_the_policy_is_out_of_date():
    reasons = {"check_nan_rejected": "an old one"}
    result = next(r for r in check_policy("none", expected_failures=reasons) if r.check == "check_nan_rejected")
    assert result.status == "failed"
    assert "says nothing about this policy (it judges nothing" in result.message
    assert "take it out" in result.message
    with pytest.raises(ValueError, match=r"'check_nan_rejected' \(an old one\), which says nothing about any of these policies: take it out"):
        parametrize_policies(["none", "taylor"], expected_failures=reasons)
    parametrize_policies(["none", "speca"], expected_failures=reasons)


def test_a_single_policy_is_not_a_list():
    with pytest.raises(ValueError, match=r"give a list.*\['speca'\]"):
        parametrize_policies("speca")


def test_a_policy_that_cannot_be_built_is_an_error():
    with pytest.raises(OptionError, match="interval=0"):
        check_policy("taylorseer:interval=0")


def test_an_option_that_is_missing_is_said_in_a_sentence():
    def fussy(*, interval):
        return OnlyCounts()

    with pytest.raises(OptionError, match=r"'fussy'.*'interval'"):
        check_policy(fussy)
    assert {r.status for r in check_policy(policy(fussy, interval=3))} == {"passed", "skipped"}


class Unruly:
    @hookimpl
    def before_step(self, step):
        torch.manual_seed(step.index)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        os.environ["FOREBODING"] = "1"


def test_what_a_policy_does_to_the_process_is_undone():
    before = torch.get_rng_state()
    failed = [r for r in check_policy(Unruly) if r.status == "failed"]
    message = next(r.message for r in failed if r.check == "check_process_untouched")
    assert "the random numbers of torch; torch's default dtype; torch's grad mode; the environment" in message
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), before)
    assert "FOREBODING" not in os.environ


class WeightsOfWholeNumbers:
    @hookimpl
    def predict_features(self, sites, history):
        return dict.fromkeys(sites, Weights(np.ones(history.anchors.shape, int)))


def test_an_answer_of_the_wrong_type_is_told_in_full_once():
    failed = {r.check: r.message for r in check_policy(WeightsOfWholeNumbers) if r.status == "failed"}
    assert "give float64 (rows, anchors), here (3, 1)" in failed["check_forecast_signature"]
    assert "The law:" in failed["check_forecast_signature"]
    assert "The law:" not in failed["check_row_subset"]
    assert "cannot be examined before the answers are what the contract says" in failed["check_row_subset"]


PLUGIN = """
from foreseer.testing import parametrize_policies
from foreseer.policies import taylor, none

@parametrize_policies([taylor], expected_failures={"check_identity": "not so"})
def test_conformance(policy, check):
    if check.name in ("check_identity", "check_options"):
        check(policy)
"""


def test_an_expected_failure_that_passes_fails_the_users_tests(tmp_path):
    (tmp_path / "test_plugin.py").write_text(PLUGIN)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "[XPASS(strict)] not so" in done.stdout
    assert "1 failed" in done.stdout
    assert "taylor-check_options" in done.stdout


def test_importing_the_kit_needs_neither_pytest_nor_hypothesis():
    without = "import sys; sys.modules['pytest'] = sys.modules['hypothesis'] = None"
    program = f"{without}\nfrom foreseer.testing import check_policy\ntry:\n    check_policy('none')\nexcept ImportError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'foreseer[testing]'" in done.stdout


def test_foreseer_brings_no_pytest_plugin():
    from importlib.metadata import distribution

    assert not [entry for entry in distribution("foreseer").entry_points if entry.group == "pytest11"]
