"""What the command line says about an installed plugin: its role, its options, and what they mean."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from foreseer.errors import PluginError, in_words
from foreseer.listing import KINDS, MEASURES, OBSERVERS, POLICIES, Listing, list_plugins
from foreseer.options import describe_option
from foreseer.registry import build_plugins, signature_of
from foreseer.sources import module_exists
from foreseer.versions import why_incompatible

__all__ = ["describe_plugins", "hints_of", "options_of", "quiet", "read_docstring", "reflow", "without_marks"]

REQUIRED = "required"
"""What is said instead of a default."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What a plugin prints when it is imported must not end up between the lines of a table or of JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def describe_plugins(*groups: str, load: bool) -> list[dict[str, str]]:
    """Return one line of ``foreseer policies`` for each installed plugin, whatever it does.

    Args:
        *groups: Entry-point groups; none for policies and observers.
        load: Import each, and say whether that works and what it is; else metadata and source tell.
    """
    found = []
    for group in groups or (POLICIES, OBSERVERS):
        listings = list_plugins(group)
        owners = Counter(listing.name for listing in listings)
        found += [_line(listing, load=load, alone=owners[listing.name] == 1) for listing in listings]
    return found


def _line(listing: Listing, *, load: bool, alone: bool) -> dict[str, str]:
    kind, status = listing.kind, "installed"
    if listing.contract and (reason := why_incompatible(listing.contract)):
        status = f"incompatible: {reason}"
    elif not module_exists(listing.target):
        status = f"broken: there is no module {listing.target.partition(':')[0]}"
    elif load:
        kind, status = _loaded(listing)
    if not alone:
        conflict = f"conflict: write {listing.distribution}:{listing.name}"
        status = conflict if status in ("ok", "installed") else f"{status}; {conflict}"
    return {
        "name": listing.name,
        "kind": kind,
        "distribution": listing.distribution,
        "version": listing.version,
        "contract": listing.contract,
        "status": status,
        "summary": without_marks(listing.summary()),
    }


def _loaded(listing: Listing) -> tuple[str, str]:
    with quiet():
        try:
            factory = listing.load()
            try:
                return _role(listing, factory), "ok"
            except (Exception, SystemExit) as error:
                why: BaseException = error
        except PluginError as error:
            why = error.__cause__ or error
    if listing.kind == KINDS[MEASURES] and isinstance(why, (ImportError, OSError)):  # the package is well, and says how to get what it lacks
        return listing.kind, f"missing: {why}"
    return listing.kind, f"broken: {why if isinstance(why, PluginError) else in_words(why)}"


def _role(listing: Listing, factory: Callable[..., Any]) -> str:
    """What the factory builds with its defaults; what its group says where it has none for an option."""
    from foreseer.plugins import observer_hooks, policy_hooks  # with torch: not for a listing that loads nothing

    if any(option["default"] == REQUIRED for option in options_of(factory, {})):
        return listing.kind
    plugins = build_plugins(factory, {}, {})
    if listing.kind == KINDS[MEASURES]:
        if not callable(getattr(plugins[0], "take", None)):
            raise PluginError(f"it builds a {type(plugins[0]).__name__}, not a foreseer.bench.measures.Measure")
        return listing.kind
    if listing.kind == "observer":
        observer_hooks(plugins)
        return "observer"
    hooks = policy_hooks(plugins)
    return "predictor" if hooks["predict_features"] and not (hooks["before_step"] or hooks["verify"]) else "policy"


def options_of(factory: Callable[..., Any], meanings: dict[str, str]) -> list[dict[str, Any]]:
    """Name, default, allowed values and meaning of each option."""
    hints = hints_of(factory)
    options = []
    for p in signature_of(factory).parameters.values():
        if p.kind is p.VAR_KEYWORD or p.kind is p.VAR_POSITIONAL:
            continue
        annotation = hints.get(p.name, p.annotation)
        values = describe_option(annotation) or ("" if annotation is p.empty else _type_name(annotation))
        default = REQUIRED if p.default is p.empty else getattr(p.default, "__name__", None) or repr(p.default)
        options.append({"name": p.name, "default": default, "values": values, "meaning": meanings.get(p.name, "")})
    return options


def hints_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a factory's options, with what they declare; empty where they cannot be read."""
    inner: Any = inspect.unwrap(factory)
    try:
        return typing.get_type_hints(vars(inner)["__init__"] if isinstance(inner, type) else inner, include_extras=True)
    except (NameError, TypeError, KeyError):
        return {}


def _type_name(annotation: Any) -> str:
    annotation = getattr(annotation, "__origin__", annotation) if hasattr(annotation, "__metadata__") else annotation
    name = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    return re.sub(r"\b(typing|collections\.abc)\.", "", name)


def read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into its text and the meanings in its sections ``Args:`` and ``Attributes:``."""
    text: list[str] = []
    meanings: dict[str, str] = {}
    section, options = "", list[str]()
    for line in doc.split("\n"):
        if line and not line[0].isspace():
            section = line if line in ("Args:", "Attributes:", "Raises:", "Returns:") else ""
        if section in ("Args:", "Attributes:"):
            entry = re.match(r"    (\w+(?:, \w+)*)(?: \([^)]*\))?: +(.*)", line)
            if entry:
                options = entry[1].split(", ")
                meanings.update(dict.fromkeys(options, entry[2]))
            elif line.startswith("     "):
                meanings.update({option: f"{meanings[option]} {line.strip()}" for option in options})
        elif not section:
            text.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(text)).strip(), meanings


def without_marks(text: str) -> str:
    """Drop the marks of code."""
    return text.replace("``", "")


def reflow(text: str) -> str:
    """Undo the line breaks of source code; paragraphs, lists and indented code keep theirs."""
    return re.sub(r"(?<=\S)\n(?:  )?(?=[^\s-])", " ", text)
