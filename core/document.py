"""`Document`: the form of every JSON file that foreseer writes, and what is said where one is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs

from foreseer.errors import OptionError
from foreseer.files import write_whole

__all__ = ["Document", "changes", "plain", "refuse_other_settings", "structured"]

T = TypeVar("T")
ANEW = "write another --out, or --restart to begin anew"
"""What to do where settings differ, if nothing else is said."""


@attrs.frozen(kw_only=True)
class Document:
    """One kind of file: a JSON object that says what it is, and whose checksum tells whether it was changed.

    Attributes:
        format: What the file says it is, ``"foreseer plan 1"``. Another number is another format.
        made_by: Who writes such files, for messages: ``"`foreseer plan`"``.
        again: What to do about a file that is not as it was written, for messages: ``"plan again"``.
        earlier: Turns the object of an earlier version, format and checksum included, into one of this
            version. It is given every object that is read.
        sealed: Whether there is a checksum.
        indent: Of the JSON; None writes one line, which is much faster for megabytes.
    """

    format: str
    made_by: str
    again: str
    earlier: Callable[[dict[str, Any]], dict[str, Any]] = dict
    sealed: bool = True
    indent: int | None = 1

    def save(self, path: Path | str, content: Any) -> Path:
        """Write the file, whole or not at all, and return ``path``.

        Args:
            path: The file. Its folder is made if it is missing.
            content: An attrs value or a mapping, as `plain` takes it.

        Raises:
            FileError: It cannot be written.
        """
        body = plain(content)
        seal = {"sha256": _digest(body)} if self.sealed else {}
        text = json.dumps({"format": self.format, **body, **seal}, indent=self.indent)
        return write_whole(Path(path), text + "\n")

    def load(self, path: Path | str, kind: type[T]) -> T:
        """Read a file into the attrs class whose value was saved. Raises as `read`, and for another content."""
        content = self.read(path)
        with self.content(path):
            return structured(kind, content)

    def read(self, path: Path | str) -> dict[str, Any]:
        """Read a file as plain data, without format and checksum.

        Raises:
            OptionError: It cannot be read, is no JSON, says that it is something else, or was changed since
                it was written; the message says which, and what to do.
        """
        with self.opened(path):
            text = Path(path).read_bytes()
        content = self.earlier(self.parsed(path, text))
        self.check_format(path, content.pop("format", "nothing"))
        if self.sealed:
            self.check_seal(path, content.pop("sha256", None), _digest(content))
        return content

    def resume(self, path: Path, settings: Mapping[str, Any], *, advice: str = ANEW) -> None:
        """Write settings to begin with, or hold them to those that something was begun with; ``advice`` says
        what to do where they differ.

        Raises:
            OptionError: As `read` and `refuse_other_settings`.
            FileError: They cannot be written.
        """
        if path.exists():
            refuse_other_settings(repr(str(path.parent)), self.read(path), settings, advice=advice)
        else:
            self.save(path, settings)

    @contextlib.contextmanager
    def opened(self, path: Path | str, *others: type[Exception]) -> Iterator[None]:
        """Say of an `OSError`, and of other errors of who reads, that the file cannot be read."""
        unreadable: tuple[type[Exception], ...] = (OSError, *others)
        try:
            yield
        except unreadable as error:
            problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
            raise self._refusal(path, problem, self._another) from error

    def parsed(self, path: Path | str, text: bytes) -> dict[str, Any]:
        """Read a JSON object; what is another value says nothing."""
        try:
            found = json.loads(text.decode())
        except ValueError as error:
            raise self._refusal(path, f"is not JSON: {error}", self._another) from error
        return found if isinstance(found, dict) else {}

    def check_format(self, path: Path | str, says: object) -> None:
        """Refuse what says that it is something else."""
        if says != self.format:
            problem = f"says it is {says!r}, and this foreseer reads {self.format!r}"
            raise self._refusal(path, problem, self.again)

    def check_seal(self, path: Path | str, says: object, digest: str) -> None:
        """Refuse what was changed: the checksum that it says is not that of its content."""
        if says != digest:
            problem = f"its content has checksum {digest[:12]}, it says {str(says)[:12]}"
            raise self._refusal(path, f"was changed since it was written: {problem}", self.again)

    @contextlib.contextmanager
    def content(self, path: Path | str) -> Iterator[None]:
        """Say of what is missing or refused inside that the file has another content."""
        try:
            yield
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            problem = f"has another content than {self.format!r}: {type(error).__name__}: {error}"
            raise self._refusal(path, problem, self.again) from error

    @property
    def _another(self) -> str:
        return f"write the name of a file that {self.made_by} made"

    def _refusal(self, path: Path | str, problem: str, advice: str) -> OptionError:
        return OptionError(f"{self.format.split()[1]} {str(path)!r} {problem}; {advice}")


def refuse_other_settings(
    what: str,
    was: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    advice: str = ANEW,
) -> None:
    """Refuse to go on with ``what`` was begun with other settings; one that a side lacks is None there.

    >>> refuse_other_settings("'out'", {"seed": 0, "steps": 4}, {"seed": 1, "steps": 4}, advice="write 0")
    Traceback (most recent call last):
    foreseer.errors.OptionError: 'out' was begun with other settings: seed was 0, is 1; write 0

    Raises:
        OptionError: They differ; the message says in what.
    """
    if differing := changes(was, now):
        raise OptionError(f"{what} was begun with other settings: {differing}; {advice}")


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which settings differ, as "seed was 0, is 1; steps was 4, is 8"; empty where none does."""
    old, new = plain(was), plain(now)
    names = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    return "; ".join(f"{name} was {old.get(name)}, is {new.get(name)}" for name in names)


def plain(value: Any) -> Any:
    """Return attrs values, mappings and sequences as JSON holds them: NaN as None, infinity as text."""
    if attrs.has(type(value)):
        return {field.name: plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        if set(map(type, value)) <= {float, int} and all(map(math.isfinite, value)):
            return list(value)
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(float(value))
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def structured(kind: type[T], content: Mapping[str, Any]) -> T:
    """Return the attrs value of which `plain` made ``content``. Keys of later versions are left out."""
    hints = typing.get_type_hints(kind)
    fields = attrs.fields(kind)  # type: ignore[arg-type]
    return kind(**{f.name: _value(hints[f.name], content[f.name]) for f in fields if f.name in content})


def _value(hint: Any, value: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return math.nan if hint is float else None
    if origin in (types.UnionType, typing.Union):
        return _value(next(a for a in args if a is not type(None)), value)
    if attrs.has(hint):
        return value if isinstance(value, hint) else structured(hint, value)
    if origin is tuple:
        return tuple(_value(args[0], v) for v in value)
    if origin is not None and isinstance(value, dict) and len(args) == 2:
        return {_value(args[0], key): _value(args[1], v) for key, v in value.items()}
    return hint(value) if hint is float or (hint is int and isinstance(value, str)) else value


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
