"""What a pipeline of the user's is asked for: a file of prompts, or a list of them.

A text file has one prompt in each line; empty lines and those that begin with ``#`` are left out. A file of
JSON lines (``.jsonl``) has in each line the arguments of one call of the pipeline, and if need be its seed:

    {"prompt": "a fox", "negative_prompt": "blurry", "seed": 7}
    {"prompt": "the same at night", "image": "fox.png"}

An argument whose name speaks of an image or a mask, and whose value is a text, is a picture's file beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from foreseer.bench.workload import generator_of
from foreseer.errors import OptionError

__all__ = ["Prompts", "prompts_from"]

PICTURES = ("image", "mask")


@attrs.frozen
class Prompts:
    """Conditions of samples: sample i has entry i modulo their number.

    Attributes:
        entries: Of each the arguments of the pipeline's call, and maybe ``seed``; at least one.
        folder: Where the files of pictures lie.
    """

    entries: tuple[Mapping[str, Any], ...]
    folder: Path = Path()

    def __len__(self) -> int:
        return len(self.entries)

    def words(self, indices: Sequence[int]) -> list[str]:
        """Return the condition of each sample as a sentence."""
        return [_words(self._of(index)) for index in indices]

    def arguments(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the arguments of one call that draws these samples.

        Of one sample they are as written. Of several, texts and pictures become a list, lists are joined, and
        all else must be the same.

        Raises:
            OptionError: The samples cannot be drawn together.
        """
        several = [{name: self._read(name, value) for name, value in self._of(index).items() if name != "seed"} for index in indices]
        first = several[0]
        if len(several) == 1:
            return first
        if other := next((one for one in several if one.keys() != first.keys()), None):
            lacking = sorted(other.keys() ^ first.keys())[0]
            raise OptionError(f"prompts: {lacking!r} is given for some samples of a batch only; write --batch 1, or give it for all")
        return {name: _together(name, [one[name] for one in several]) for name in first}

    def generators(self, indices: Sequence[int], *, seed: int) -> list[torch.Generator]:
        """Return each sample's own generator: that of its ``seed``, or else of the settings' and its index.
        Where a prompt is drawn again, its seed and the round decide.
        """
        return [self._generator(index, self._of(index).get("seed"), seed) for index in indices]

    def digest(self) -> str:
        """Return a hash of the prompts, what is in their pictures' files included."""
        digest = hashlib.sha256(json.dumps(self.entries, sort_keys=True, default=str).encode())
        for entry in self.entries:
            for name in sorted(name for name, value in entry.items() if _is_picture(name, value)):
                with contextlib.suppress(OSError):  # told when it is drawn
                    digest.update((self.folder / entry[name]).read_bytes())
        return digest.hexdigest()[:16]

    def _generator(self, index: int, own: int | None, seed: int) -> torch.Generator:
        again = index // len(self.entries)
        if own is None:
            return generator_of(index, seed=seed)
        return generator_of(again, seed=own) if again else torch.Generator().manual_seed(own)

    def _of(self, index: int) -> Mapping[str, Any]:
        return self.entries[index % len(self.entries)]

    def _read(self, name: str, value: Any) -> Any:
        if not _is_picture(name, value):
            return value
        from PIL import Image

        path = self.folder / value
        try:
            with Image.open(path) as picture:
                return picture.convert("RGB")
        except OSError as error:
            raise OptionError(f"prompts: {name}={value!r} is no picture in {str(self.folder)!r}: {error}; write a file's name beside the prompts") from error


def _is_picture(name: str, value: Any) -> bool:
    return isinstance(value, str) and any(word in name for word in PICTURES)


def _together(name: str, values: list[Any]) -> Any:
    if isinstance(values[0], list):
        return [value for one in values for value in one]
    if isinstance(values[0], str) or any(word in name for word in PICTURES):
        return values
    if any(value != values[0] for value in values):
        raise OptionError(f"prompts: {name}={values[0]!r} and {name}={values[1]!r} cannot be drawn in one call; write --batch 1")
    return values[0]


def _words(entry: Mapping[str, Any]) -> str:
    found = entry.get("prompt")
    return found if isinstance(found, str) else ", ".join(f"{name}={value}" for name, value in entry.items() if isinstance(value, (str, int, float, list)))


def prompts_from(given: str | Path | Sequence[str | Mapping[str, Any]] | Prompts | None) -> Prompts | None:
    """Read prompts from a file, or from a list of texts and of arguments; None stays.

    Raises:
        OptionError: The file cannot be read, a line is none of this, or there is no prompt.
    """
    if given is None or isinstance(given, Prompts):
        return given
    if isinstance(given, (str, Path)):
        path = Path(given)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise OptionError(
                f"prompts={str(given)!r} cannot be read: {why}; write a text file with one prompt in each line, or JSON lines (.jsonl)"
            ) from error
        written = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
        entries = [_line(line, f"{path.name}, line {number}") if path.suffix == ".jsonl" else {"prompt": line} for number, line in written]
        return _checked(entries, str(given), path.parent)
    return _checked([{"prompt": one} if isinstance(one, str) else one for one in given], "[...]", Path())


def _line(line: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise OptionError(f'prompts: {where} is not JSON: {error}; write {{"prompt": "..."}}') from error
    return found if isinstance(found, Mapping) else {"": found}


def _checked(entries: Sequence[Any], what: str, folder: Path) -> Prompts:
    if not entries:
        raise OptionError(f"prompts={what!r} holds no prompt; write one in each line")
    for entry in entries:
        if not isinstance(entry, Mapping) or not all(isinstance(name, str) and name for name in entry):
            raise OptionError(f'prompts: {entry!r} is no prompt; write a text, or the arguments of a call as {{"prompt": "...", "seed": 7}}')
        seed = entry.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise OptionError(f"prompts: seed={seed!r} is out of range; write a whole number >= 0")
    return Prompts(tuple(entries), folder)
