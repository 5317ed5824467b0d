"""`foreseer new`: write a plugin project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from foreseer.console import complain

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["new"]


def new(
    kind: Annotated[str, typer.Argument(help="gate, front-gate, probeless-gate, predictor, schedule or observer.")],
    name: Annotated[str, typer.Argument(help="Its name, such as my-gate; the project is then foreseer-my-gate.")],
    path: Annotated[Path, typer.Option(help="Folder in which the project's own folder is made.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files without asking.")] = False,
    allow_taken: Annotated[bool, typer.Option("--allow-taken", help="Take a name that is installed already; your own project's, for example.")] = False,
) -> None:
    """Write a plugin project: it installs, passes its tests, and is yours to change."""
    from foreseer.scaffold import names_for, write_project

    def ask(files: list[Path]) -> bool:
        for file in files:
            typer.echo(f"exists already: {file}")
        if not typer.confirm("Overwrite?", default=False):
            complain("nothing was written")
            raise typer.Exit(1)
        return True

    names = names_for(kind, name, allow_taken=allow_taken)
    try:
        written = write_project(kind, name, into=path, overwrite=True if force else ask, allow_taken=allow_taken)
    except ImportError as error:
        complain(str(error))
        raise typer.Exit(1) from None
    for file in written:
        typer.echo(f"wrote {file}")
    folder = path / names.project
    typer.echo(f"\nNext:\n  pip install -e '{folder}[test]'\n  pytest {folder}\n  foreseer check {names.plugin}")
