"""What foreseer raises on purpose is a `ForeseerError`: read from the sources, so that it stays so."""

import ast
import builtins
import tomllib
from pathlib import Path

import pytest

import foreseer
from foreseer import ForeseerError, OptionError
from foreseer.bench.peers import PeerError
from foreseer.errors import MissingPackageError
from foreseer.schedule_plan import Budget, SchedulePlan
from foreseer.signature import Signature
from foreseer.workbench.limits import Limits


def a_plan(**values):
    budget = Budget(steps=(0,), error=0.0)
    return SchedulePlan(signature=Signature(num_steps=2), budgets={1: budget}, chosen=1, **values)


ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = sorted(PROJECT["tool"]["setuptools"]["package-dir"].values())

ALLOWED = {
    "core/__init__.py ImportError": "the copy that `import core` makes cannot import our errors",
    "bench/workbench/commands/compare.py KeyboardInterrupt": "an interrupted comparison ends as an interrupted program does",
    "core/console.py SystemExit": "the command line has nothing to print an error with",
}


def raised_builtins(path: Path) -> list[str]:
    """Names of the built-in exceptions that a file raises, and of its attrs validators, which raise some.

    AttributeError is what ``__getattr__`` must raise.
    """
    found: list[str] = []

    def look(node: ast.AST, function: str) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            builtin = isinstance(raised, ast.Name) and isinstance(getattr(builtins, raised.id, None), type)
            if builtin and (raised.id, function) != ("AttributeError", "__getattr__"):
                found.append(raised.id)
        validator = isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("validators")
        if validator and node.attr != "optional":
            found.append(f"attrs.validators.{node.attr}")
        for child in ast.iter_child_nodes(node):
            look(child, function)

    look(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def test_what_is_raised_on_purpose_is_a_foreseer_error():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found = {f"{path.relative_to(ROOT)} {name}" for path in files for name in raised_builtins(path)}
    assert not found - set(ALLOWED), "raise a class of core/errors.py, or add the place here, with a reason"
    assert not set(ALLOWED) - found, "nothing of the kind is raised there any more: take it off the list"


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("raise ValueError('x')", ["ValueError"]),
        ("def f():\n  if 1:\n    raise KeyError", ["KeyError"]),
        ("try: pass\nexcept OSError as error:\n  raise RuntimeError() from error", ["RuntimeError"]),
        (
            "x = attrs.field(validator=attrs.validators.optional(attrs.validators.ge(1)))",
            ["attrs.validators.ge"],
        ),
        ("def __getattr__(name):\n  raise AttributeError(name)", []),
        ("raise OptionError('x')\nraise error\nraise\nraise errors[0]\nraise typer.Exit(1)", []),
    ],
)
def test_the_sources_are_read_for_that(code, names, tmp_path):
    (tmp_path / "module.py").write_text(code)
    assert raised_builtins(tmp_path / "module.py") == names


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [
        (OptionError, ValueError),
        (PeerError, RuntimeError),
        (MissingPackageError, ImportError),
    ],
)
def test_it_is_what_it_was_before_as_well(ours, builtin):
    assert issubclass(ours, ForeseerError)
    assert issubclass(ours, builtin)
    assert str(ours("no lane 'x'")) == "no lane 'x'"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Limits(first=0), r"first=0 is out of range; write a whole number >= 1"),
        (lambda: Limits(max_gap=0), r"max_gap=0 is out of range; write a whole number >= 1"),
        (lambda: a_plan(target="all"), "target='all' is unknown; write one of modules, last_block, residual, residual_after_first, output"),
    ],
)
def test_settings_are_refused_with_what_to_write(call, words):
    with pytest.raises(ForeseerError, match=words):
        call()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("on_error", "ignore"),
        ("streams", "one"),
        ("storage", "int8"),
        ("copies", 0),
        ("process_group", 3),
    ],
)
def test_attach_refuses_what_it_is_given_wrongly(tiny_dit, name, value):
    with pytest.raises(OptionError, match=rf"{name}={value!r}.*write"):
        foreseer.attach(tiny_dit, "none", **{name: value})
