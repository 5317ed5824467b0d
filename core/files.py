"""Files are written whole or not at all; where that cannot be, one sentence says why."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from foreseer.errors import FileError

__all__ = ["append", "make_folder", "refuse_unwritable", "refuse_unwritable_folder", "write_csv", "write_whole"]


def write_whole(path: Path, content: str | bytes | Callable[[Path], object]) -> Path:
    """Replace a file in one go: whatever happens, the old one or the new one is there, whole, and nothing
    beside it. A link stays, and what it leads to is replaced. A device is written to.

    Args:
        path: The file. Its folder is made if it is missing.
        content: What it shall hold, or who writes it to the path that it is given, beside the file.

    Returns:
        ``path``.

    Raises:
        FileError: It cannot be written.
    """
    try:
        place = path.resolve()  # a link is followed, and stays
        device = place.exists() and not place.is_file()  # which is written to and not replaced; a folder says that it is one
    except (OSError, ValueError, RuntimeError) as error:  # a name that is too long or has a NUL, links in a circle
        raise FileError(f"{path} cannot be written: {_why(error)}") from error
    make_folder(place.parent)
    part = place if device else place.with_name(f"{place.name}.{os.getpid()}-{threading.get_ident()}.part")  # two may write at once
    try:
        if callable(content):
            content(part)
        else:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
        if not device:
            part.replace(place)
    except BaseException as error:
        if not device:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FileError(f"{path} cannot be written: {_why(error)}") from error
        raise
    return path


def append(path: Path, text: str) -> None:
    """Add whole lines to a file, and close it: who is killed keeps what is there, and no line is cut.

    Raises:
        FileError: It cannot be written.
    """
    try:
        with path.open("ab", buffering=0) as file:
            end, left = file.tell(), text.encode()
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {_why(error)}") from error


def write_csv(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> Path:
    """Write a table; None and what a line lacks are empty. Raises `FileError` where it cannot be written."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(lines)
    return write_whole(path, text.getvalue())


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, where it is missing. Raises `FileError` where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise FileError(f"the folder {path} cannot be made: {_why(error)}") from error
    return path


def refuse_unwritable(path: Path) -> None:
    """Say before long work, by `FileError`, that a file could not be written at its end. Makes nothing."""
    if _looked_at(path.is_dir, path):
        raise FileError(f"{path} is a folder; write the name of a file")
    refuse_unwritable_folder(path.parent)


def refuse_unwritable_folder(path: Path) -> None:
    """Say before long work, by `FileError`, that nothing could be written to a folder. Makes nothing."""
    there = next(folder for folder in (path, *path.parents) if _looked_at(folder.exists, path))
    if not there.is_dir():
        raise FileError(f"{there} is a file; write the name of a folder, which is made if it is missing")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FileError(f"the folder {there} cannot be written to: permission denied")


def _looked_at(look: Callable[[], bool], path: Path) -> bool:
    try:
        return look()
    except OSError as error:
        raise FileError(f"{path} cannot be written: {_why(error)}") from error


def _why(error: Exception) -> str:
    if isinstance(error, FileExistsError):
        return "there is a file of that name"
    return (getattr(error, "strerror", None) or str(error)).lower()
