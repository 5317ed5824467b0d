"""Draws with names, kept in a folder as they are finished: a command that was stopped draws none again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from foreseer.bench.store import file_names
from foreseer.document import Document, plain
from foreseer.errors import OptionError
from foreseer.files import refuse_unwritable_folder, write_whole

__all__ = ["Draw", "KeptDraws"]


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
        self._settings, self._document, self._names = settings, document, list[str]()
        if folder is not None:
            refuse_unwritable_folder(folder)
            if (folder / "settings.json").exists():
                self._begin()

    def draw(self, name: str, make: Callable[[], Draw]) -> Draw:
        """Return the draw of that name: what is there, or what ``make`` draws, which is then kept."""
        if self.folder is None:
            self.made += 1
            return _plain(make())
        self._names.append(name)
        path = self.folder / "draws" / f"{file_names(dict.fromkeys(self._names))[name]}.safetensors"
        if path.exists():
            return _read(path)
        found = _plain(make())
        self.made += 1
        self._begin()
        _write(path, found)
        return found

    def _begin(self) -> None:
        assert self.folder is not None
        try:
            self._document.resume(self.folder / "settings.json", self._settings)
        except OptionError as error:
            raise OptionError(str(error).replace(", or --restart to begin anew", "")) from error


def _plain(draw: Draw) -> Draw:
    return attrs.evolve(draw, facts=plain(draw.facts))  # the same whether it is read or was just made


def _write(path: Path, draw: Draw) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in draw.tensors.items()}
    write_whole(path, save(tensors, {"facts": json.dumps(draw.facts)}))


def _read(path: Path) -> Draw:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            return Draw(tensors={name: file.get_tensor(name) for name in file.keys()}, facts=facts)  # noqa: SIM118  (it is no mapping)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise OptionError(f"{str(path)!r} is damaged: {error}; delete it, and the same command draws it again") from error
