"""Files are written whole or not at all; where that cannot be, one sentence says why."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from foreseer.errors import FileError

__all__ = ["make_folder", "refuse_unwritable", "refuse_unwritable_folder", "write_csv", "write_whole"]


def write_whole(path: Path, content: str | bytes | Callable[[Path], object]) -> Path:
    """Replace a file in one go: whatever happens, the old one or the new one is there, whole, and nothing beside it.

    Args:
        path: The file. Its folder is made if it is missing.
        content: What it shall hold, or who writes it to the path that it is given, beside the file.

    Returns:
        ``path``.

    Raises:
        FileError: It cannot be written.
    """
    make_folder(path.parent)
    part = path.with_name(path.name + ".part")
    try:
        if callable(content):
            content(part)
        else:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    except BaseException as error:
        if not part.is_dir():
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FileError(f"{path} cannot be written: {_why(error)}") from error
        raise
    return path


def write_csv(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> Path:
    """Write a table; None and what a line lacks are empty.

    Raises:
        FileError: It cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(lines)
    return write_whole(path, text.getvalue())


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, where it is missing.

    Raises:
        FileError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {path} cannot be made: {_why(error)}") from error
    return path


def refuse_unwritable(path: Path) -> None:
    """Say before long work that a file could not be written at its end. Makes nothing.

    Raises:
        FileError: The path is a folder, or `refuse_unwritable_folder` refuses its folder.
    """
    if path.is_dir():
        raise FileError(f"{path} is a folder; write the name of a file")
    refuse_unwritable_folder(path.parent)


def refuse_unwritable_folder(path: Path) -> None:
    """Say before long work that nothing could be written to a folder. Makes nothing.

    Raises:
        FileError: It, or what it would be made in, is a file, or nobody may write there.
    """
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise FileError(f"{there} is a file; write the name of a folder, which is made if it is missing")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FileError(f"the folder {there} cannot be written to: permission denied")


def _why(error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return "there is a file of that name"
    return (error.strerror or str(error)).lower()
