"""The command line: a frame for the commands that are found by the entry points of the group
``foreseer.commands``.

An entry point names a function, as typer reads it, or a ``typer.Typer`` of several. Of a command nothing is
imported but what is run; the list of all reads their docstrings.
`foreseer.command_options` makes options of the fields of settings.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from foreseer import __version__
from foreseer.command_options import with_settings
from foreseer.console import Frame, Several
from foreseer.listing import COMMANDS, Listing, list_plugins, listed_as, load_factory
from foreseer.sources import first_paragraph

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["app", "main"]


def _installed() -> dict[str, Listing]:
    listings = list_plugins(COMMANDS)
    brought = Counter(listing.name for listing in listings)
    return {listing.name if brought[listing.name] == 1 else f"{listing.distribution}:{listing.name}": listing for listing in listings}


class Installed(Frame):
    """The commands that are installed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return their names; those that two packages bring, with the package's before them."""
        return list(_installed())

    def get_command(self, ctx: Any, name: str) -> Any:
        """Import one; None where there is none of that name. Raises `PluginError`, as for a policy."""
        if not listed_as(name, COMMANDS):
            return None
        found: Any = load_factory(name, group=COMMANDS)
        if not isinstance(found, typer.Typer):
            one = typer.Typer(rich_markup_mode=None, add_completion=False)
            one.command(name, cls=Several)(with_settings(found))
            return typer.main.get_command(one)
        group = typer.main.get_group(found)
        for command in group.commands.values():  # typer would cut it after 45 characters
            command.short_help = first_paragraph(command.help or "")
        return group

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of all; imports none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, listing.summary()) for name, listing in _installed().items()])


app = typer.Typer(
    cls=Installed,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Feature forecasting for diffusion transformers, with policies as plugins.",
)


def main() -> None:
    """Run the command line."""
    app(prog_name="foreseer")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"foreseer {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    pass


if __name__ == "__main__":
    main()
