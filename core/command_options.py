"""Options of a command from the settings that it makes: names, kinds, defaults and meanings are written once.

>>> @takes("foreseer.workbench.record_settings:RecordSettings", extra="workbench", leave_out=("every",))
... def record(out: Path, settings: Settings) -> None:
...     made = settings(every=1)
"""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import attrs

from foreseer.console import needs
from foreseer.describe import read_docstring, without_marks

import typer  # isort: skip  (foreseer.console says what to install where it is missing)

__all__ = ["Settings", "takes", "with_settings"]

Settings = functools.partial[Any]
"""Makes the settings from what was typed, ``settings.keywords``, and from what the command adds."""
F = TypeVar("F", bound=Callable[..., None])
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


@attrs.frozen
class _Source:
    where: str
    extra: str
    leave_out: Sequence[str]
    options: Mapping[str, Mapping[str, Any]]


def takes(
    where: str,
    *,
    extra: str,
    into: str = "settings",
    leave_out: Sequence[str] = (),
    **options: Mapping[str, Any],
) -> Callable[[F], F]:
    """Give a command, in the place of a parameter, an option for each field of an attrs class.

    An option's help is the first sentence of what the class's docstring says of the field. What is not typed
    is left to the class. The class is imported when the command is run or asked for its help.

    Args:
        where: The class, ``"module:name"``.
        extra: The extra of foreseer that the command needs, for messages.
        into: The parameter.
        leave_out: Fields that are no options.
        **options: By field, arguments of ``typer.Option`` that stand instead of those that are found.
    """

    def mark(command: F) -> F:
        command.__dict__.setdefault("__takes__", {})[into] = _Source(where, extra, leave_out, options)
        return command

    return mark


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command as typer reads it: one that `takes` settings with their options, another as it is."""
    sources: Mapping[str, _Source] = vars(command).get("__takes__", {})
    if not sources:
        return command
    kinds, options, parameters = {}, {}, []
    for into, source in sources.items():
        with needs(command.__name__, source.extra):
            module, _, name = source.where.partition(":")
            kinds[into] = getattr(import_module(module), name)
        options[into] = _options(kinds[into], source)
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        parameters += options.get(parameter.name, [parameter])

    def run(**given: Any) -> None:
        made = {}
        for into, kind in kinds.items():
            typed = {option.name: given.pop(option.name) for option in options[into]}
            made[into] = functools.partial(kind, **{name: value for name, value in typed.items() if value is not None and value is not False})
        with needs(command.__name__, next(iter(sources.values())).extra):
            command(**given, **made)

    shown = [parameter.replace(kind=_KEYWORD) for parameter in parameters]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _options(kind: Any, source: _Source) -> list[inspect.Parameter]:
    hints, meanings = typing.get_type_hints(kind), read_docstring(inspect.getdoc(kind) or "")[1]
    found = []
    for field in attrs.fields(kind):
        if field.name in source.leave_out:
            continue
        typed, metavar = _typed(hints[field.name])
        given = {"help": _help(meanings.get(field.name, ""), field.default), "metavar": metavar}
        flag = typed is bool
        names = [f"--{field.name.replace('_', '-')}"] if flag else []
        option = typer.Option(*names, **{**given, **source.options.get(field.name, {})})
        kinds: dict[str, Any] = {"annotation": Annotated[typed if flag else typed | None, option]}
        found.append(inspect.Parameter(field.name, _KEYWORD, default=False if flag else None, **kinds))
    return found


def _typed(hint: Any) -> tuple[Any, str | None]:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(member for member in typing.get_args(hint) if member is not type(None))
    if typing.get_origin(hint) is tuple:
        return list[str], None
    words = "|".join(typing.get_args(hint)) if typing.get_origin(hint) is Literal else None
    return hint if hint in (bool, int, float, Path) else str, words


def _help(meaning: str, default: Any) -> str:
    first = re.sub(r"[,:]? see `[^`]*`", "", meaning.split(". ")[0].rstrip("."))
    said, _, none = without_marks(first).partition("; None ")
    value = " ".join(map(str, default)) if isinstance(default, tuple) else default
    if none.startswith("for "):
        value = none.removeprefix("for ")
    shown = "" if value is None or value is False or value in ("", attrs.NOTHING) else f" Default: {value}."
    return f"{said}.{shown}"
