"""`FeatureStore`: recorded tensors in a folder beside the trace, a safetensors file for each recorded run,
and an index in JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.document import Document, plain, refuse_other_settings, structured
from foreseer.errors import FileError, OptionError
from foreseer.files import write_whole
from foreseer.types import Site
from foreseer.workbench.trace import in_order, site_named

__all__ = ["FILE", "FeatureStore", "KeptAs", "check_kept"]

FILE = Document(
    format="foreseer features 1",
    made_by="`foreseer record --features`",
    again="record again, with --restart",
    sealed=False,
)
INDEX = "index.json"

KeptAs = Literal["float32", "float16"]


def check_kept(settings: object, attribute: object, value: object) -> None:
    """Refuse what numbers cannot be kept as."""
    if value not in get_args(KeptAs):
        raise OptionError(f"features={value!r} is unknown; write one of {', '.join(get_args(KeptAs))}")


@attrs.frozen(kw_only=True)
class _Chunk:
    """One file: the samples ``first`` to ``first + samples`` of one stream. Stores of before there were
    checksums have none.
    """

    file: str
    stream: str
    first: int
    samples: int
    bytes: int
    sha256: str = ""


class FeatureStore:
    """Recorded features on disk. Made by `create`, read by `open`; reading loads only what is asked for.

    A feature has the shape ``(S, T, C, ...)``: S samples, T steps, C rows of each sample in a call (2 for
    guidance by concatenation), and then that of a row's feature.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], kept_as: KeptAs, chunks: Sequence[_Chunk] = ()) -> None:
        self.folder, self.facts = folder, dict(facts)
        self.kept_as: KeptAs = kept_as
        self._chunks, self._sound = list(chunks), set[str]()

    @classmethod
    def create(cls, folder: Path, *, facts: Mapping[str, Any], kept_as: KeptAs = "float32") -> FeatureStore:
        """Begin a store, or go on with one that was begun with the same facts.

        Args:
            folder: Made if it is missing.
            facts: Plain data: what the features are of. Kept, and compared.
            kept_as: What numbers are kept as. float32 holds those of bfloat16 and float16 as they are.

        Raises:
            OptionError: There is a store of other features; the message says what differs. Or ``kept_as`` is
                unknown.
        """
        check_kept(None, None, kept_as)
        new = cls(folder, plain(facts), kept_as)
        if (folder / INDEX).exists():
            old = cls.open(folder)
            was, now = {**old.facts, "kept as": old.kept_as}, {**new.facts, "kept as": kept_as}
            refuse_other_settings(repr(str(folder)), was, now)
            return old
        new._write_index()
        return new

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Open a store.

        Raises:
            OptionError: The folder has no index, another foreseer's, or one that names files which are not
                there or have another size.
        """
        found = FILE.read(folder / INDEX)
        with FILE.content(folder / INDEX):
            facts, kept_as = found["facts"], found["kept_as"]
            chunks = [structured(_Chunk, chunk) for chunk in found["chunks"]]
        for chunk in chunks:
            path = folder / chunk.file
            size = path.stat().st_size if path.exists() else None
            if size != chunk.bytes:
                is_there = "is missing" if size is None else f"has {size} bytes"
                said = f"{is_there}, and the index says {chunk.bytes} bytes"
                raise OptionError(f"{str(path)!r} {said}; record again, with --restart")
        return cls(folder, facts, kept_as, chunks)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of a step's calls."""
        return tuple(dict.fromkeys(chunk.stream for chunk in self._chunks))

    @property
    def samples(self) -> int:
        """Samples, S: those that are there in every stream."""
        return min(map(self._count, self.streams), default=0)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Recorded sites."""
        return in_order(self._names(self._chunks[0])) if self._chunks else ()

    def add(self, stream: str, features: Mapping[Site, Tensor]) -> None:
        """Keep the features of the next samples of a stream.

        Args:
            stream: Which.
            features: For each site ``(S, T, C, ...)``, on the CPU.

        Raises:
            OptionError: Numbers are larger than float16 holds.
            FileError: They cannot be written.
        """
        dtype = torch.float16 if self.kept_as == "float16" else torch.float32
        kept = {str(site): feature.to(dtype).contiguous() for site, feature in features.items()}
        if lost := [name for name, feature in kept.items() if not torch.isfinite(feature).all()]:
            problem = f"features of {', '.join(lost)} are larger than {self.kept_as} holds, or not finite"
            raise OptionError(f"{problem}; keep them as float32: --features float32")
        first = self._count(stream)
        name = "".join(letter if letter.isalnum() else "_" for letter in stream)
        path = self.folder / f"{first:05d}{'-' if name else ''}{name}.safetensors"
        write_whole(path, lambda part: _save(kept, part))
        samples, size = len(next(iter(kept.values()))), path.stat().st_size
        new = {"file": path.name, "stream": stream, "first": first, "samples": samples, "bytes": size}
        self._chunks.append(structured(_Chunk, {**new, "sha256": _sha256(path)}))
        self._write_index()

    def keep_first(self, samples: int) -> None:
        """Throw away what was kept of samples from ``samples`` on: what an interrupted batch left."""
        if gone := [chunk for chunk in self._chunks if chunk.first >= samples]:
            self._chunks = [chunk for chunk in self._chunks if chunk not in gone]
            self._write_index()
            for chunk in gone:
                (self.folder / chunk.file).unlink(missing_ok=True)

    def read(self, site: Site, stream: str = "", *, sample: int | None = None) -> NDArray[Any]:
        """Return the features of a site.

        Args:
            site: A recorded site.
            stream: One of `streams`.
            sample: One sample; None reads all.

        Returns:
            ``(S, T, C, ...)`` as kept, float32 or float16; ``(T, C, ...)`` of one sample.

        Raises:
            OptionError: Not recorded.
        """
        if site not in self.sites:
            there = ", ".join(map(str, self.sites))
            problem = f"site={str(site)!r} was not kept; this folder has {there}"
            raise OptionError(f"{problem}: record it with --sites")
        chunks = [chunk for chunk in self._chunks if chunk.stream == stream]
        if not chunks:
            there = ", ".join(map(repr, self.streams))
            raise OptionError(f"stream={stream!r} was not kept; this folder has {there}")
        if sample is None:
            return np.concatenate([self._read(chunk, site, slice(None)) for chunk in chunks])
        for chunk in chunks:
            if chunk.first <= sample < chunk.first + chunk.samples:
                return self._read(chunk, site, sample - chunk.first)
        raise OptionError(f"sample={sample} was not recorded; there are {self._count(stream)}")

    def _count(self, stream: str) -> int:
        return sum(chunk.samples for chunk in self._chunks if chunk.stream == stream)

    def _names(self, chunk: _Chunk) -> dict[Site, str]:
        """What the file calls its sites. The output was once written as "-1.output"."""
        with self._opened(chunk) as file:
            return {site_named(name): name for name in file.keys()}  # noqa: SIM118  (no mapping)

    def _read(self, chunk: _Chunk, site: Site, which: int | slice) -> NDArray[Any]:
        with self._opened(chunk) as file:
            return np.asarray(file.get_slice(self._names(chunk)[site])[which])

    def _opened(self, chunk: _Chunk) -> Any:
        from safetensors import safe_open

        path = self.folder / chunk.file
        if chunk.sha256 and chunk.file not in self._sound:  # once: it takes about as long as reading
            if (digest := _sha256(path)) != chunk.sha256:
                said = f"it has checksum {digest[:12]}, the index says {chunk.sha256[:12]}"
                raise OptionError(f"{str(path)!r} is damaged: {said}; record again, with --restart")
            self._sound.add(chunk.file)
        return safe_open(path, framework="numpy")

    def _write_index(self) -> None:
        FILE.save(self.folder / INDEX, {"kept_as": self.kept_as, "facts": self.facts, "chunks": self._chunks})


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, {"format": FILE.format})
    except SafetensorError as error:  # which is no OSError, also where the disk is full
        raise FileError(str(error)) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
