"""Laws of ``foreseer new``'s library part: what is written is whole and named consistently, and nothing is lost.

That what it writes installs, passes its own tests and is typed is in test_installed.py, in an environment of its own.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import foreseer
from foreseer import OptionError
from foreseer.scaffold import KINDS, names_for, write_project
from foreseer.scaffold.names import LONGEST, PATTERN, RESERVED

kinds = st.sampled_from(KINDS)
# Good names and bad: the law is that a name is refused, or that everything made from it is right.
names = st.from_regex(PATTERN, fullmatch=True).filter(lambda name: len(name) <= LONGEST)
AWKWARD = ("plan", "run", "probe-2", "foreseer-newton", "foreseer-3d", "predictor", "gate", "q", "x" + "-y" * 19 + "z", "a" * LONGEST, "z9-observer")


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESEER_NO_PLUGINS", "1")


def write(kind: str, name: str, into: Path, **options: object) -> Path:
    """Write a project and return its folder."""
    write_project(kind, name, into=into, **options)  # type: ignore[arg-type]
    return into / f"foreseer-{name.removeprefix('foreseer-')}"


def texts(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def bound_names(source: str) -> set[str]:
    """What a module binds at its top level."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return found


# --- what is written


@given(kind=kinds, name=names)
@settings(max_examples=40)
@example(kind="gate", name="foreseer-newton")
@example(kind="predictor", name="foreseer-3d")
def test_what_is_written_is_whole_or_the_name_is_refused(kind: str, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Python parses, the metadata parses, its entry points lead to what the module defines, and no template mark is left over."""
    try:
        made = names_for(kind, name, allow_taken=True)
    except OptionError:
        assert name.removeprefix("foreseer-").replace("-", "_") in RESERVED or name.removeprefix("foreseer-").startswith("test")
        return
    folder = write(kind, name, tmp_path_factory.mktemp("new"), allow_taken=True)
    for path, text in texts(folder).items():
        assert b"{{" not in text.replace(b"${{", b""), path
        assert b"{%" not in text, path
        assert text == b"" or (text.endswith(b"\n") and not text.endswith(b"\n\n")), path
    assert (folder / "src" / made.module / "py.typed").exists()

    metadata = tomllib.loads((folder / "pyproject.toml").read_text())
    project = metadata["project"]
    assert project["name"] == made.project == folder.name
    assert project["name"].startswith("foreseer-"), "a bare name may be a stranger's package on the index"
    assert project["dependencies"] == [f"foreseer>={'.'.join(foreseer.__version__.split('.')[:2])}"]
    assert project["entry-points"]["foreseer.contract"] == {foreseer.CONTRACT: made.module}
    assert "license" not in project, "the author's choice"
    group = "foreseer.observers" if kind == "observer" else "foreseer.policies"
    ((plugin, target),) = project["entry-points"][group].items()
    entry = EntryPoint(plugin, target, group)
    assert (plugin, entry.module, entry.attr) == (made.plugin, made.module, made.plugin)

    source = (folder / "src" / made.module / "__init__.py").read_text()
    test = (folder / "tests" / f"test_{made.module}.py").read_text()
    assert made.plugin in bound_names(source)
    assert made.plugin in bound_names(test)
    assert all(word.isidentifier() and not keyword.iskeyword(word) for word in (made.module, made.plugin, made.cls))
    imported = {alias.name.partition(".")[0] for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module).partition(".")[0] for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert imported - sys.stdlib_module_names == {"foreseer"}, "a plugin needs nothing but foreseer"


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_in_it_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory builds with its defaults, for a name that is one of foreseer's own classes too, and refuses a bad option by name."""
    folder = write(kind, "plan", tmp_path)
    monkeypatch.syspath_prepend(str(folder / "src"))
    try:
        from foreseer_plan import plan  # type: ignore[import-not-found]

        spec = foreseer.policy(plan)
        assert len(spec()) == (1 if kind in ("predictor", "observer") else 2)
        wrong = {"gate": "threshold=-1", "front-gate": "threshold=-1", "probeless-gate": "tolerance=-1", "predictor": "damping=2"}
        option, _, value = (wrong | {"schedule": "interval=0", "observer": "every=0"})[kind].partition("=")
        with pytest.raises(OptionError, match=f"plan: {option}={value} is out of range; write "):
            plan(**{option: int(value)})
    finally:
        sys.modules.pop("foreseer_plan", None)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_clean_as_it_is_written(kind: str, tmp_path: Path) -> None:
    """ruff finds nothing to say and nothing to reformat, by the project's own settings, however long or awkward the name is."""
    folders = [write(kind, name, tmp_path, allow_taken=True) for name in AWKWARD]
    for command in (["check", "--no-cache", "--output-format=concise"], ["format", "--check", "--no-cache"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, *folders], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_function_can_have_a_name_that_its_module_needs(tmp_path: Path) -> None:
    """What the templates bind at the top of a module is refused as a plugin's name, all of it and nothing else but Python's own words."""
    bound: set[str] = set()
    for kind in KINDS:
        folder = write(kind, f"qq-{kind}", tmp_path)
        own = {f"qq_{kind}".replace("-", "_"), f"qq_{kind}_weights"}
        bound |= set().union(*(bound_names(path.read_text()) for path in folder.rglob("*.py"))) - own
    needed = {name for name in bound if name.islower() and not name.startswith("test")}
    assert needed == RESERVED - {*keyword.kwlist, *keyword.softkwlist, *dir(builtins)}


# --- overwriting


def test_writing_it_again_changes_nothing(tmp_path: Path) -> None:
    """What is there already with the same text is not asked about and not written."""
    assert len(write_project("gate", "my-gate", into=tmp_path)) == 7
    before = texts(tmp_path)
    assert write_project("gate", "my-gate", into=tmp_path, overwrite=lambda _: pytest.fail("asked")) == []
    assert texts(tmp_path) == before


@given(
    edited=st.sets(st.sampled_from(["README.md", "pyproject.toml", "src/foreseer_my_gate/__init__.py", "tests/test_foreseer_my_gate.py"]), min_size=1),
    answer=st.booleans(),
)
@settings(max_examples=15)
def test_it_asks_once_and_a_no_leaves_everything(edited: set[str], answer: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The question lists just the files that would change. After a no every file is as it was, and missing ones stay missing."""
    into = tmp_path_factory.mktemp("asked")
    folder = write("gate", "my-gate", into)
    fresh = texts(folder)
    for path in edited:
        (folder / path).write_text("mine\n")
    (folder / ".gitignore").unlink()
    (folder / "notes.txt").write_text("mine too\n")
    before = texts(folder)
    asked: list[list[Path]] = []

    def ask(paths: list[Path]) -> bool:
        asked.append(paths)
        return answer

    written = write_project("gate", "my-gate", into=into, overwrite=ask)
    assert asked == [sorted(folder / path for path in edited)]
    assert {str(path.relative_to(folder)) for path in written} == ({*edited, ".gitignore"} if answer else set())
    assert texts(folder) == ({**fresh, "notes.txt": b"mine too\n"} if answer else before)


def test_unasked_it_overwrites_nothing(tmp_path: Path) -> None:
    """The default is an error that names the files; True overwrites."""
    folder = write("gate", "my-gate", tmp_path)
    (folder / "README.md").write_text("mine\n")
    before = texts(tmp_path)
    with pytest.raises(OptionError, match=r"overwrite=False.*would change: foreseer-my-gate/README\.md; write overwrite=True, another name or another folder"):
        write_project("gate", "my-gate", into=tmp_path)
    with pytest.raises(OptionError, match=r"would change: .*pyproject\.toml"):
        write_project("schedule", "my-gate", into=tmp_path)
    assert texts(tmp_path) == before
    assert write_project("gate", "my-gate", into=tmp_path, overwrite=True) == [folder / "README.md"]


def test_a_file_in_the_way_of_the_folder_stops_it_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "foreseer-my-gate").write_text("a file\n")
    with pytest.raises(OSError, match="my-gate"):
        write_project("gate", "my-gate", into=tmp_path)
    assert texts(tmp_path) == {"foreseer-my-gate": b"a file\n"}


# --- names


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("My_Gate", "write 'my-gate'"),
        ("my gate!", "write 'my-gate'"),
        ("my--gate", "write 'my-gate'"),
        ("-gate", "write 'gate'"),
        ("3d", "write 'my-gate'"),
        ("", "write 'my-gate'"),
        ("../gate", "write 'gate'"),
        ("gäte", "write 'g-te'"),
        ("gate\n", "write 'gate'"),
        ("g" * (LONGEST + 1), f"write '{'g' * LONGEST}'"),
        ("class", "a function 'class'.*write 'class-gate'"),
        ("print", "a function 'print'.*write 'print-gate'"),
        ("hookimpl", "a function 'hookimpl'.*write 'hookimpl-gate'"),
        ("foreseer-given", "a function 'given'"),
        ("foreseer", "a function 'foreseer'"),
        ("test-gate", "pytest takes for a test"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_with_one_that_can(name: str, advice: str, tmp_path: Path) -> None:
    """Also where taken names are allowed, and before anything is written."""
    for allow_taken in (False, True):
        with pytest.raises(OptionError, match=rf"(?s)name={name!r}.*{advice}".replace("\\", "\\\\")):
            write_project("gate", name, into=tmp_path, allow_taken=allow_taken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("speca", r"foreseer [\d.]+ brings the policy 'speca'"),
        ("foreseer-cg-taylor", r"foreseer [\d.]+ brings the policy 'cg_taylor'"),
        ("methods", r"the package foreseer-methods \S+ is installed"),
        ("there", r"a module 'foreseer_there' is installed \(.*foreseer_there\.py\)"),
    ],
)
def test_a_taken_name_is_refused_unless_that_is_allowed(
    name: str, owner: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says whose it is. Nothing is imported to find out."""
    site = tmp_path_factory.mktemp("site")
    (site / "foreseer_there.py").write_text("raise RuntimeError('imported')\n")
    (site / "foreseer_methods-1.0.dist-info").mkdir()
    (site / "foreseer_methods-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: foreseer-methods\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(OptionError, match=rf"name='{name}' is taken: {owner}; write another name"):
        write_project("gate", name, into=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(write_project("gate", name, into=tmp_path, allow_taken=True)) == 7


def test_a_project_s_own_folder_does_not_take_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without code is a namespace package where the current folder is on the path, and no module."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write("gate", "mygate", tmp_path)
    assert write_project("gate", "mygate", into=tmp_path) == []


def test_an_unknown_kind_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="kind='policy' is unknown; write one of 'gate', 'front-gate', 'probeless-gate', 'predictor', 'schedule', 'observer'"):
        write_project("policy", "my-gate", into=tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my-gate", ("foreseer_my_gate", "my_gate", "MyGate")),
        ("foreseer-newton", ("foreseer_newton", "newton", "NewtonGate")),
        ("foreseer-3d", ("foreseer_3d", "foreseer_3d", "Foreseer3dGate")),
        ("plan", ("foreseer_plan", "plan", "PlanGate")),
    ],
)
def test_names_follow_from_the_project_s(name: str, expected: tuple[str, str, str]) -> None:
    """``foreseer-``, written or not, belongs to the package and not to the plugin; a class ends in its kind and so is none of foreseer's."""
    made = names_for("gate", name, allow_taken=True)
    assert (made.module, made.plugin, made.cls) == expected


def test_without_jinja2_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"pip install 'foreseer\[cli\]'"):
        write_project("gate", "my-gate", into=tmp_path)
    assert list(tmp_path.iterdir()) == []
