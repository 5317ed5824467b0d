"""Writing a new project: everything is rendered, then compared with what is there, then written."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from foreseer.errors import MissingPackageError, OptionError
from foreseer.files import write_whole
from foreseer.scaffold.names import Names, names_for
from foreseer.versions import CONTRACT

__all__ = ["write_project"]


def files_of(kind: str, names: Names) -> dict[str, str]:
    """Which template makes which file; paths are relative to the project and to the templates."""
    return {
        "pyproject.toml": "project/pyproject.toml.jinja",
        "README.md": "project/readme.md.jinja",
        ".gitignore": "project/gitignore.jinja",  # setuptools leaves files that begin with a dot out of a package
        ".github/workflows/test.yml": "project/workflow.yml.jinja",
        f"src/{names.module}/__init__.py": f"{kind}/plugin.py.jinja",
        f"src/{names.module}/py.typed": "project/py.typed.jinja",
        f"tests/test_{names.module}.py": f"{kind}/test_plugin.py.jinja",
    }


def render_project(kind: str, names: Names) -> dict[str, str]:
    """Render every file of a project: path -> text. Raises `MissingPackageError` without jinja2."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingPackageError("a new project is written with jinja2: pip install 'foreseer[cli]'") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("foreseer.scaffold", "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # these are no web pages, and the names are checked
    )
    facts = {
        "kind": kind.rpartition("-")[2],
        "names": names,
        "contract": CONTRACT,
        "minor": ".".join(version("foreseer").split(".")[:2]),
    }
    return {path: environment.get_template(template).render(facts) for path, template in files_of(kind, names).items()}


def write_project(
    kind: str,
    name: str,
    *,
    into: Path,
    overwrite: Callable[[list[Path]], bool] | bool = False,
    allow_taken: bool = False,
) -> list[Path]:
    """Write a new plugin's project into a folder of ``into``, such as ``foreseer-my-gate``.

    Nothing is written unless everything could be rendered and nothing that exists would be lost.

    Args:
        kind: One of `foreseer.scaffold.KINDS`.
        name: The plugin's or the project's name; see `foreseer.scaffold.names_for`.
        into: The folder that gets the project's folder. Both are made if they are missing.
        overwrite: Whether existing files that would change may be overwritten. A function is asked once, with
            all of them, and only if there are any.
        allow_taken: Whether the name may be that of something installed.

    Returns:
        The files that were written: none that were there with the same text, and none if ``overwrite`` said
            no.

    Raises:
        OptionError: The kind is unknown; the name cannot be used or is taken; or files would change and
            ``overwrite`` is False.
        MissingPackageError: Without jinja2 (``pip install 'foreseer[cli]'``).
        OSError: The files cannot be read or written.
    """
    names = names_for(kind, name, allow_taken=allow_taken)
    root = into / names.project
    rendered = {root / path: text.encode() for path, text in render_project(kind, names).items()}
    there = {path: path.read_bytes() for path in rendered if path.exists()}
    changed = sorted(path for path, text in there.items() if text != rendered[path])
    if changed and overwrite is False:
        files = ", ".join(str(path.relative_to(into)) for path in changed)
        raise OptionError(f"overwrite=False, and these files in {into} would change: {files}; write overwrite=True, another name or another folder")
    if changed and callable(overwrite) and not overwrite(changed):
        return []
    written = [path for path, text in rendered.items() if there.get(path) != text]
    for path in written:
        write_whole(path, rendered[path])
    return written
