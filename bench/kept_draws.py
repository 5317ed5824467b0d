"""Draws with names, kept in a folder as they are finished: a command that was stopped draws none again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from foreseer.document import Document, plain
from foreseer.errors import OptionError
from foreseer.files import refuse_unwritable_folder, write_whole

__all__ = ["DamagedDrawError", "Draw", "KeptDraws"]


class DamagedDrawError(OptionError):
    """The file of a draw is damaged, or holds a draw of another name; the message says what to do."""


@attrs.frozen(eq=False, kw_only=True)
class Draw:
    """What was drawn.

    Attributes:
        tensors: By name; on the CPU.
        facts: Plain data: what JSON holds.
    """

    tensors: Mapping[str, Tensor] = attrs.field(repr=False)
    facts: Mapping[str, Any]


class KeptDraws:
    """A folder of draws.

    Args:
        folder: Made with the first draw; None keeps them in memory.
        settings: What every draw depends on.
        document: The form of the file that holds them.

    Attributes:
        folder: As given.
        made: How many draws were made by this object, and not found.

    Raises:
        OptionError: The folder holds draws of other settings.
        FileError: It cannot be written.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any], document: Document) -> None:
        self.folder, self.made = folder, 0
        self._settings, self._document = settings, document
        if folder is not None:
            refuse_unwritable_folder(folder)
            if (folder / "settings.json").exists():
                self._begin()

    def has(self, name: str) -> bool:
        """Whether there is a draw of that name in the folder."""
        return self.folder is not None and self._path(name).exists()

    def draw(self, name: str, make: Callable[[], Draw]) -> Draw:
        """Return the draw of that name: what is there, or what ``make`` draws, which is then kept.

        Raises:
            DamagedDrawError: Its file is damaged, or holds a draw of another name.
            FileError: It cannot be written.
        """
        if self.folder is None:
            self.made += 1
            return _plain(make())
        path = self._path(name)
        if path.exists():
            return _read(path, name)
        found = _plain(make())
        self.made += 1
        self._begin()
        _write(path, name, found)
        return found

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / "draws" / _file_name(name)

    def _begin(self) -> None:
        assert self.folder is not None
        self._document.resume(self.folder / "settings.json", self._settings, advice=self._document.again)


def _plain(draw: Draw) -> Draw:
    return attrs.evolve(draw, facts=plain(draw.facts))  # the same whether it is read or was just made


def _file_name(name: str) -> str:
    """Return a file name that no other name has, on any system: its beginning, for readers, and a hash of it."""
    plain_name = re.sub(r"[^A-Za-z0-9.=_-]+", "_", name).strip("._")[:60]
    return f"{plain_name}-{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"


def _write(path: Path, name: str, draw: Draw) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in draw.tensors.items()}
    write_whole(path, save(tensors, {"name": name, "facts": json.dumps(draw.facts)}))


def _read(path: Path, name: str) -> Draw:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            said = file.metadata()
            facts, kept = json.loads(said["facts"]), said["name"]
            found = Draw(tensors={key: file.get_tensor(key) for key in file.keys()}, facts=facts)  # noqa: SIM118  (it is no mapping)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DamagedDrawError(f"{str(path)!r} is damaged: {error}; delete it, and the same command draws it again") from error
    if kept != name:
        raise DamagedDrawError(f"{str(path)!r} holds {kept!r}, and {name!r} was asked for; delete it, and the same command draws it again")
    return found
