"""A fresh environment for the whole test session: foreseer's wheel, the example plugins' and one generated project of each kind, as pip leaves them.

Nothing in it is editable and nothing of the checkout is on its path: what runs there is what a user has. It is made once, by whichever test process
asks first, and deleted by whichever is done with it last. What foreseer's extras ask for is not installed again but linked from where the tests run:
those packages and no others, in the versions that are there. `make wheel` installs them with pip. Also the fake packages that listing is measured with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import attrs
import pytest
from filelock import FileLock
from packaging.requirements import Requirement

__all__ = ["CHECKOUT", "EXAMPLES", "GENERATED", "Fresh", "fake_distributions", "fresh", "outside"]

CHECKOUT = Path(__file__).parents[1]
EXAMPLES = tuple(sorted(path.parent for path in (CHECKOUT / "plugins_example").glob("*/pyproject.toml")))
GENERATED = {kind: f"foreseer-my-{kind}" for kind in ("gate", "front-gate", "probeless-gate", "predictor", "schedule", "observer")}
"""kind -> the project that ``foreseer new`` makes of it."""


def outside() -> dict[str, str]:
    """This process's environment without what would lead back to the checkout, or tell a test run that it is part of this one."""
    hidden = ("PYTHON", "PYTEST", "FORESEER", "VIRTUAL_ENV", "COLUMNS")
    return {**{key: value for key, value in os.environ.items() if not key.startswith(hidden)}, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@attrs.frozen
class Fresh:
    """The environment.

    Attributes:
        folder: Where it lies.
    """

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "env" / "bin" / "python"

    @property
    def foreseer(self) -> Path:
        """Its command line, as pip installed it."""
        return self.python.with_name("foreseer")

    def project(self, name: str) -> Path:
        """The source of an example or of a generated project: a copy, which nothing in the environment leads to."""
        return self.folder / "projects" / name

    def run(self, *command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command outside of the checkout. Fails the test if the command does, with all that it printed."""
        return call(*command, cwd=cwd, **variables)

    def pytest(self, *arguments: str | Path, cwd: Path) -> str:
        """Run tests in isolated mode, warnings as errors; return the last line of what was printed."""
        done = self.run(self.python, "-I", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *arguments, cwd=cwd)
        return done.stdout.strip().splitlines()[-1]


def call(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command; fail with its output if it does not end well."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=outside() | variables, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}", pytrace=False)
    return done


def needed(own: Distribution, *extras: str) -> dict[str, Distribution]:
    """The installed packages that one asks for with these extras, and those that they ask for, by name."""
    found: dict[str, Distribution] = {}
    waiting, asked = [(own, ("", *extras))], set()
    while waiting:
        one, extras = waiting.pop()
        for requirement in map(Requirement, one.requires or ()):
            if str(requirement) in asked or (requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras)):
                continue
            asked.add(str(requirement))
            it = own if requirement.name == own.name else distribution(requirement.name)
            if it is not own:
                found[it.name] = it
            waiting.append((it, ("", *requirement.extras)))
    return found


def link(packages: dict[str, Distribution], site: Path) -> None:
    """Put packages into an environment as links to where they are installed; what they compiled is shared as well."""
    for package in packages.values():
        home = Path(package.locate_file(""))
        for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (site / name).is_symlink():
                (site / name).symlink_to(home / name)


def install(folder: Path) -> None:
    """Build everything from copies (building writes into the source), and install what was built."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    into = (*pip, "--python", folder / "env" / "bin" / "python", "install", "--quiet", "--no-deps", "--no-index")
    wheel = (*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheels")

    source = folder / "source"
    mapping = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", ".*_cache", ".hypothesis")
    for part in mapping.values():
        shutil.copytree(CHECKOUT / part, source / part, ignore=unwanted, dirs_exist_ok=True)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / file, source)
    for example in EXAMPLES:
        shutil.copytree(example, folder / "projects" / example.name, ignore=unwanted)
    call(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    call(*wheel, source, cwd=folder)
    (own,) = (folder / "wheels").glob("foreseer-*.whl")
    call(*into, own, cwd=folder)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env"), "platbase": str(folder / "env")}))
    link(needed(Distribution.at(next(site.glob("foreseer-*.dist-info"))), "bench", "testing"), site)
    (kind, name), *others = [(kind, name.removeprefix("foreseer-")) for kind, name in GENERATED.items()]
    call(folder / "env" / "bin" / "foreseer", "new", kind, name, "--path", folder / "projects", cwd=folder)
    made = f"from pathlib import Path; from foreseer.scaffold import write_project; [write_project(*each, into=Path('projects')) for each in {others}]"
    call(folder / "env" / "bin" / "python", "-I", "-c", made, cwd=folder)
    call(*wheel, *sorted((folder / "projects").iterdir()), cwd=folder)
    call(*into, *(path for path in (folder / "wheels").glob("*.whl") if path != own), cwd=folder)
    call(*pip, "--python", folder / "env" / "bin" / "python", "check", cwd=folder)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    """The environment, shared by all test processes of this run."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each process has a folder of its own in there
    folder, users = base / "fresh", base / "fresh.users"
    with FileLock(base / "fresh.lock"):
        using = int(users.read_text()) if users.exists() else 0
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)  # an attempt that failed: the next one says why again
            folder.mkdir()
            install(folder)
            (folder / "ready").touch()
        users.write_text(str(using + 1))
    yield Fresh(folder)
    with FileLock(base / "fresh.lock"):
        using = int(users.read_text()) - 1
        users.write_text(str(using))
        if using == 0:
            shutil.rmtree(folder)


def fake_distributions(folder: Path, count: int) -> Path:
    """Put packages into a folder as pip would have left them there: metadata, and a module that notes that it was imported and then fails.

    Returns:
        The file with the notes; it is missing as long as nothing was imported.
    """
    notes = folder / "imported.txt"
    for number in range(count):
        name = f"fake_{number:02}"
        metadata = folder / f"{name}-1.{number}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.{number}\n")
        (metadata / "entry_points.txt").write_text(f"[foreseer.policies]\n{name} = {name}:make\n\n[foreseer.contract]\n1.0 = {name}\n")
        (folder / f"{name}.py").write_text(f"open({str(notes)!r}, 'a').write({name!r})\nraise RuntimeError('imported')\n")
    return notes
