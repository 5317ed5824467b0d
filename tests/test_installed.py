"""What a user has after ``pip install``: foreseer's wheel, plugins' wheels and new projects' wheels, in an environment without the checkout."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fresh import CHECKOUT, EXAMPLES, GENERATED, Fresh, fake_distributions, fresh, outside

import foreseer

__all__ = ["fresh"]

WITH_AN_ENGINE = ("foreseer-comfyui",)
"""Their tests run another program, which `make test` gets for them."""
POLICIES = {name: kind for kind, name in GENERATED.items() if kind != "observer"}


def module_of(project: str) -> str:
    return project.replace("-", "_")


def plugin_of(project: str) -> str:
    return module_of(project.removeprefix("foreseer-"))


def test_the_examples_are_there() -> None:
    """Two predictors, a schedule and an observer, each a package of its own."""
    assert {path.name for path in EXAMPLES} >= {"foreseer-newton", "foreseer-hicache", "foreseer-budget", "foreseer-csvtrace"}


def test_nothing_in_it_comes_from_the_checkout(fresh: Fresh, tmp_path: Path) -> None:
    """The wheels are what is imported, not an editable install nor the sources beside the tests."""
    modules = ["foreseer", "foreseer.testing", "foreseer.scaffold", *(module_of(path.name) for path in EXAMPLES), *map(module_of, GENERATED.values())]
    code = f"import importlib; print(*(importlib.import_module(m).__file__ for m in {modules}), sep='\\n')"
    found = fresh.run(fresh.python, "-I", "-c", code, cwd=tmp_path).stdout.split()
    assert len(found) == len(modules)
    site = fresh.run(fresh.python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip()
    assert all(path.startswith(site) for path in found), found


@pytest.mark.parametrize("name", [path.name for path in EXAMPLES if path.name not in WITH_AN_ENGINE])
def test_an_example_passes_its_own_tests(fresh: Fresh, tmp_path: Path, name: str) -> None:
    """Against the wheels, as its author would run them after installing both."""
    shutil.copytree(fresh.project(name) / "tests", tmp_path / "tests")
    assert " passed" in fresh.pytest("tests", "--import-mode=importlib", cwd=tmp_path)


@pytest.mark.parametrize("name", GENERATED.values())
def test_a_new_project_passes_its_own_tests(fresh: Fresh, name: str) -> None:
    """By its own settings, without a change by its author."""
    summary = fresh.pytest(cwd=fresh.project(name))
    assert " passed" in summary
    assert "skipped" not in summary
    assert "xfailed" not in summary


def test_a_new_plugin_is_checked_by_its_name(fresh: Fresh, tmp_path: Path) -> None:
    """``foreseer check`` holds a policy and an observer to the laws, in the exit status, in JSON and in a table that ends in a count.

    The laws themselves hold for every kind: the projects' own tests are the conformance kit.
    """
    found = json.loads(fresh.run(fresh.foreseer, "check", "my_gate", "--json", cwd=tmp_path).stdout)
    assert found["passed"]
    assert {check["status"] for check in found["checks"]} == {"passed", "skipped"}
    assert re.search(r"^my_observer: \d+ passed, \d+ skipped$", fresh.run(fresh.foreseer, "check", "my_observer", cwd=tmp_path).stdout, re.MULTILINE)


def test_new_projects_are_clean_and_typed(fresh: Fresh) -> None:
    """mypy --strict sees foreseer's types through the wheel's py.typed, in the plugins and in their tests; ruff has nothing to say.

    Most of it is reading torch. What mypy found there is kept between runs; it knows files by their content.
    """
    folders = [fresh.project(name) for name in GENERATED.values()]
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        fresh.run(sys.executable, "-m", "ruff", *command, *folders, cwd=fresh.folder)
    parts = [folder / part for folder in folders for part in ("src", "tests")]
    mypy = (sys.executable, "-m", "mypy", "--config-file", folders[0] / "pyproject.toml", "--python-executable", fresh.python)
    done = fresh.run(*mypy, "--cache-dir", CHECKOUT / ".mypy_cache" / "projects", *parts, cwd=fresh.folder)
    assert done.stdout.startswith("Success: no issues found in 12 source files")


def test_plugins_are_compared_by_name_in_one_command(fresh: Fresh, tmp_path: Path) -> None:
    """Two predictors, a schedule and an observer from four packages, crossed with foreseer's own by nothing but their names."""
    policies = ("cg_taylor:predictor=newton", "budget:fraction=0.25,predictor=hicache")
    options = ("--observers", "csvtrace:path=trace.csv", "--samples", "4", "--steps", "12", "--out", "results")
    fresh.run(fresh.foreseer, "compare", "--policies", *policies, *options, cwd=tmp_path)
    assert (tmp_path / "results" / "index.html").stat().st_size > 0
    with (tmp_path / "trace.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) >= 12


def test_what_is_installed_is_listed_with_its_package_and_version(fresh: Fresh, tmp_path: Path) -> None:
    """Name, package and version on one line; a plugin's name says nothing about the package that it comes from."""
    lines = [line.split() for line in fresh.run(fresh.foreseer, "policies", cwd=tmp_path).stdout.splitlines()]
    listed = {line[0]: line for line in lines if line}
    expected = {"newton": "foreseer-newton", "hicache": "foreseer-hicache", "budget": "foreseer-budget", "speca": "foreseer"}
    expected |= {plugin_of(name): name for name in POLICIES}
    for name, package in expected.items():
        at = listed[name].index(package)
        assert listed[name][at + 1] == (foreseer.__version__ if package == "foreseer" else "0.1.0")


def test_serving_engines_find_their_plugins(fresh: Fresh, tmp_path: Path) -> None:
    """By the entry points that SGLang and vLLM-Omni look through; where no engine is, loading them says so and does nothing else."""
    code = """
from importlib.metadata import entry_points
for group in ("sglang.multimodal_gen.plugins", "vllm_omni.general_plugins"):
    (found,) = entry_points(group=group)
    found.load()()
    print(found.name, found.value)
"""
    done = fresh.run(fresh.python, "-I", "-c", code, cwd=tmp_path, FORESEER_POLICY="taylorseer:interval=3")
    assert done.stdout.split() == ["foreseer", "foreseer_sglang:register", "foreseer", "foreseer_vllm_omni:register"]
    assert "no hook registry that is known" in done.stderr
    assert "--cache-backend foreseer is not there" in done.stderr


def test_fifty_packages_are_listed_and_none_is_imported(fresh: Fresh, tmp_path: Path) -> None:
    """Installing a package is not running it: listing reads metadata alone. How long that takes is in benchmarks/test_listing.py."""
    notes = fake_distributions(tmp_path / "site", 50)
    words = fresh.run(fresh.foreseer, "policies", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site")).stdout.split()
    assert [f"fake_{number:02}" for number in range(50)] == [word for word in words if word.startswith("fake_")]
    assert not notes.exists(), f"imported: {notes.read_text()}"


def test_a_taken_name_is_refused_by_the_installed_command(fresh: Fresh, tmp_path: Path) -> None:
    """An installed plugin's name cannot be made anew by accident; the message names the package, and nothing is written."""
    command = [str(fresh.foreseer), "new", "predictor", "newton", "--path", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=outside(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "foreseer-newton 0.1.0 brings the policy 'newton'" in done.stderr
    assert list(tmp_path.iterdir()) == []
