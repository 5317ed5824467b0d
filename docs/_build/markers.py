"""Generated parts of the documentation: an mkdocs hook that replaces markers when the site is built, and
equations by MathML, so that nothing generated is kept and no page needs a script.

A marker is a comment alone on its line:

    <!-- options: speca -->                 the options of an installed policy, as a table
    <!-- citation: speca -->                its BibTeX
    <!-- output: foreseer show taylor -->   a command and what it prints
    <!-- help: compare -->                  a command's help
    <!-- checks -->                         the laws of the conformance kit, by group
    <!-- picture: taylorseer -->            the life of a step, see `pictures.py`
    <!-- front: solvers_dit -->             how near solvers and caches come, see `front_picture.py`
    <!-- load: dit -->                      a load test of servers, as a table, see `load_picture.py`
    <!-- inflight -->                       what requests in flight cost, likewise
    <!-- include: CHANGELOG.md -->          a page that lies elsewhere in the repository
    <!-- source: docs/examples/x.py -->     a program, and what it prints
    <!-- program: docs/examples/x.py -->    a program that does not end by itself
"""

from __future__ import annotations

import html
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import front_picture
import load_picture
import pictures
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"^<!-- (?P<kind>[a-z]+)(?:: (?P<what>.*?))? -->$", re.MULTILINE)
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
"""What `pymdownx.arithmatex` makes of what stands between dollar signs."""
WIDTH = "96"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the markers of one page. What goes wrong ends the build, naming page and marker."""

    def replaced(match: re.Match[str]) -> str:
        try:
            return WRITERS[match["kind"]](match["what"] or "")
        except Exception as error:
            raise PluginError(f"{page.file.src_path}: {match[0]}: {type(error).__name__}: {error}") from error

    return MARKER.sub(replaced, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Replace each equation. Browsers draw MathML themselves."""

    def drawn(match: re.Match[str]) -> str:
        tag, display = match[1], "block" if match[1] == "div" else "inline"
        return f'<{tag} class="equation">{convert(html.unescape(match[2]), display=display)}</{tag}>'

    return EQUATION.sub(drawn, content)


def options(name: str) -> str:
    """A table of a factory's options."""
    from foreseer.describe import options_of, read_docstring
    from foreseer.listing import load_factory

    factory = load_factory(name)
    rows = options_of(factory, read_docstring(inspect.getdoc(factory) or "")[1])
    if not rows:
        return "It has no options."
    lines = ["| option, default, values | meaning |", "|---|---|"]
    for row in rows:
        values = str(row["values"]).replace("str | Callable[..., Any]", "a name, or a factory")
        cells = (f"`{row['name']}` = `{row['default']}`<br>{values}", str(row["meaning"]))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def citation(name: str) -> str:
    """BibTeX of a policy's paper."""
    from foreseer import cite

    return f"```bibtex\n{cite(name)}\n```"


def output(command: str) -> str:
    """A command line and what it prints now."""
    return f"```console\n$ {command}\n{run(command)}\n```"


def run(command: str) -> str:
    """Run a command of foreseer in this process, without the plugins that happen to be installed."""
    from typer.testing import CliRunner

    from foreseer.__main__ import app

    words = shlex.split(command)
    if words[0] != "foreseer":
        raise ValueError("only commands of foreseer are run")
    result = CliRunner().invoke(app, words[1:], prog_name="foreseer", env={"COLUMNS": WIDTH, "FORESEER_NO_PLUGINS": "1"})
    if result.exit_code != 0:
        raise ValueError(f"exit status {result.exit_code}: {result.output}")
    return "\n".join(line.rstrip() for line in result.stdout.strip("\n").splitlines())


def command_help(command: str) -> str:
    """What ``--help`` prints."""
    return output(f"foreseer {command} --help".replace("  ", " "))


def checks(_: str) -> str:
    """Every check of the conformance kit: its law, then why it is one."""
    from foreseer.testing import CHECKS

    groups: dict[str, list[Any]] = {}
    for check in CHECKS:
        groups.setdefault(check.group, []).append(check)
    parts = []
    for group, members in groups.items():
        parts.append(f"### {group}")
        for check in members:
            law, _, why = (inspect.getdoc(check.function) or check.law).partition("\n\n")
            parts.append(f"#### `{check.name}` {{ #{check.name} }}\n\n**{law}**\n\n{why.strip()}")
    return "\n\n".join(parts)


def include(path: str) -> str:
    """A file of the repository; its links to pages of the documentation are made to fit."""
    return (ROOT / path).read_text().replace("](docs/", "](")


def source(path: str) -> str:
    """A program and what it prints now, without the plugins that happen to be installed."""
    environment = {**os.environ, "FORESEER_NO_PLUGINS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, ROOT / path], capture_output=True, text=True, env=environment, check=True)
    return f"{program(path)}\n\n```console\n$ python {path}\n{done.stdout}```"


def program(path: str) -> str:
    """A program, as it is."""
    return f"```python\n{(ROOT / path).read_text()}```"


WRITERS: dict[str, Callable[[str], str]] = {each.__name__: each for each in (options, citation, output, checks, include, source, program)} | {
    "help": command_help,
    "picture": pictures.draw,
    "front": front_picture.draw,
    "load": load_picture.load,
    "inflight": load_picture.in_flight,
}
