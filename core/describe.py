"""What the command line says about an installed plugin: its role, its options, and what their docstrings mean."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any

from foreseer.options import describe_option
from foreseer.plugins import policy_hooks
from foreseer.registry import Listing, signature_of

__all__ = ["describe_listing", "options_of", "plain", "quiet", "read_docstring", "reflow"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What a plugin prints when it is imported must not end up between the lines of a table or of JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def describe_listing(listing: Listing, *, alone: bool) -> dict[str, str]:
    """One line of ``foreseer policies``. Whatever a plugin does, it must not end the listing."""
    facts = {"name": listing.name, "role": "", "distribution": listing.distribution, "version": listing.version, "status": "ok", "summary": ""}
    try:
        with quiet():
            facts["summary"] = plain(listing.summary())
            if facts["summary"].startswith("broken: "):
                facts["status"], facts["summary"] = facts["summary"], ""
            else:
                facts["role"] = _role(listing.load())
    except (Exception, SystemExit) as error:
        facts["status"] = f"broken: {type(error).__name__}: {error}"
    if not alone:
        conflict = f"conflict: write {listing.distribution}:{listing.name}"
        facts["status"] = conflict if facts["status"] == "ok" else f"{facts['status']}; {conflict}"
    return facts


def _role(factory: Callable[..., Any]) -> str:
    """What the factory builds with its defaults; empty where it has an option without one."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(p.default is p.empty and p.kind not in kinds for p in signature_of(factory).parameters.values()):
        return ""
    built = factory()
    hooks = policy_hooks(built if isinstance(built, (tuple, list)) else (built,))
    if hooks["before_step"] or hooks["verify"]:
        return "policy"
    return "predictor" if hooks["predict_features"] else ""


def options_of(factory: Callable[..., Any], meanings: dict[str, str]) -> list[dict[str, Any]]:
    """Name, default, allowed values and meaning of each option."""
    inner: Any = inspect.unwrap(factory)
    try:
        hints = typing.get_type_hints(vars(inner)["__init__"] if isinstance(inner, type) else inner, include_extras=True)
    except (NameError, TypeError, KeyError):
        hints = {}
    options = []
    for p in signature_of(factory).parameters.values():
        if p.kind is p.VAR_KEYWORD or p.kind is p.VAR_POSITIONAL:
            continue
        annotation = hints.get(p.name, p.annotation)
        values = describe_option(annotation) or ("" if annotation is p.empty else _type_name(annotation))
        default = "required" if p.default is p.empty else repr(p.default)
        options.append({"name": p.name, "default": default, "values": values, "meaning": meanings.get(p.name, "")})
    return options


def _type_name(annotation: Any) -> str:
    annotation = getattr(annotation, "__origin__", annotation) if hasattr(annotation, "__metadata__") else annotation
    name = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    return re.sub(r"\b(typing|collections\.abc)\.", "", name)


def read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into its text and the meanings in its ``Args:`` section."""
    text: list[str] = []
    meanings: dict[str, str] = {}
    section, option = "", ""
    for line in doc.split("\n"):
        if line and not line[0].isspace():
            section = line if line in ("Args:", "Raises:", "Returns:") else ""
        if section == "Args:":
            entry = re.match(r"    (\w+)(?: \([^)]*\))?: +(.*)", line)
            if entry:
                option = entry[1]
                meanings[option] = entry[2]
            elif option and line.startswith("     "):
                meanings[option] += " " + line.strip()
        elif not section:
            text.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(text)).strip(), meanings


def plain(text: str) -> str:
    """Drop the marks of code."""
    return text.replace("``", "")


def reflow(text: str) -> str:
    """Undo the line breaks of source code; paragraphs, lists and indented code keep theirs."""
    return re.sub(r"(?<=\S)\n(?:  )?(?=[^\s-])", " ", text)
