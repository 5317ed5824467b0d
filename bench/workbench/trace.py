"""A recorded run: inner products of its features instead of the features. The file is safetensors with JSON
metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.document import Document, plain, structured
from foreseer.errors import OptionError
from foreseer.files import write_whole
from foreseer.schedule_plan import Grid
from foreseer.signature import Signature
from foreseer.types import Site

__all__ = ["FILE", "Trace", "in_order", "site_named", "squared_error"]

FILE = Document(format="foreseer trace 1", made_by="`foreseer record`", again="record again")
"""What is said about a trace, in the metadata of its file; the inner products are tensors beside it."""

Array = NDArray[np.float64]


def site_named(text: str) -> Site:
    """Read what ``str(site)`` wrote.

    >>> site_named("11.block"), site_named("11.block since -1")
    (Site(block=11, part='block'), Site(block=11, part='block', since=-1))
    """
    end, residual, since = text.partition(" since ")
    block, _, part = ("-1", "", end) if end in ("output", "clean") else end.partition(".")
    return Site(int(block), part, int(since) if residual else None)


def in_order(sites: Iterable[Site]) -> tuple[Site, ...]:
    """Return sites, each once: by block, parts before the block's output, residuals behind what they end in,
    and the denoiser's output at the end.
    """

    def place(site: Site) -> tuple[Any, ...]:
        return site.block < 0, site.block, site.part == "block", site.part, site.since is not None, site.since or 0

    return tuple(sorted(set(sites), key=place))


def squared_error(gram: Array, index: NDArray[np.int64], coefficients: Array) -> Array:
    """Return the squared norm of weighted sums of features: c^T G c, for N sums at once.

    Args:
        gram: ``(S, T, T)`` inner products of S samples.
        index: ``(N, K)`` or ``(K,)`` which steps enter each sum.
        coefficients: Of the same shape; of a forecast's error the weights of its anchors, and -1 for the step
            itself.

    Returns:
        ``(S, N)`` or ``(S,)``, not negative.
    """
    total = np.zeros(gram.shape[:1] + index.shape[:-1])
    width = index.shape[-1]
    for a in range(width):
        for b in range(a, width):
            total += (1.0 if a == b else 2.0) * coefficients[..., a] * coefficients[..., b] * gram[:, index[..., a], index[..., b]]
    return np.maximum(total, 0.0)


@attrs.frozen(eq=False, kw_only=True)
class Trace:
    """Full computation of S samples over T steps, as inner products.

    A sample's Gram matrix is summed over its rows: rows of one sample (concatenated guidance) share one fate.

    Attributes:
        signature: What it was recorded on.
        depth: Blocks of the model.
        copies: Rows of one sample in one call.
        labels: ``(S,)`` what each sample was conditioned on, such as ``"7"``.
        streams: Names of a step's calls: ``("",)``, or ``("cond", "uncond")`` for guidance in two calls.
        grams: For each stream and site ``(S, T, T)`` float64 inner products of the features of two steps.
        target: The site whose forecast error was let through to measure sensitivities.
        sensitivity: ``(S, T)`` how far the final latent moves for an error of the target's feature in one
            step alone: |x - x_full| over the norm of the feature's error, both L2, errors of all streams
                together. NaN in steps that were neither measured nor interpolated; empty ``(S, 0)`` where
            nothing was measured.
        measured: Steps at which it was measured; between them it is interpolated.
        evaluations: Denoiser evaluations that measuring took, beyond the recorded run.
        final_norm: ``(S,)`` L2 norm of each final latent.
        final_size: Numbers of one final latent.
        features: Name of the folder beside the file that holds the tensors; empty where they were not kept.
        seed: Of the recorded noises; None where it is not known.
        grid: The solver that took the steps, and their levels of noise; None where neither is known.
    """

    signature: Signature
    depth: int
    copies: int = 1
    labels: tuple[str, ...]
    streams: tuple[str, ...] = ("",)
    grams: Mapping[tuple[str, Site], Array] = attrs.field(repr=False)
    target: Site | None = None
    sensitivity: Array = attrs.field(factory=lambda: np.zeros((0, 0)), repr=False)
    measured: tuple[int, ...] = ()
    evaluations: int = 0
    final_norm: Array = attrs.field(factory=lambda: np.zeros(0), repr=False)
    final_size: int = 0
    features: str = ""
    seed: int | None = None
    grid: Grid | None = None

    @property
    def num_steps(self) -> int:
        """Steps, T."""
        return self.signature.num_steps

    @property
    def samples(self) -> int:
        """Samples, S."""
        return len(self.labels)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Recorded sites, each once, from the first block to the output."""
        return in_order(site for _, site in self.grams)

    def gram(self, site: Site, stream: str | None = None) -> Array:
        """Return ``(S, T, T)`` inner products at a site.

        Args:
            site: A recorded site; block -1 with part ``"block"`` is the last.
            stream: One of `streams`; None sums over all, which is right where all do the same.

        Raises:
            OptionError: Not recorded.
        """
        if site == Site(-1):
            site = Site(self.depth - 1)
        if site not in self.sites:
            raise OptionError(f"site={str(site)!r} was not recorded; this trace has {', '.join(map(str, self.sites))}: record it with --sites")
        if stream is not None and stream not in self.streams:
            raise OptionError(f"stream={stream!r} was not recorded; this trace has {', '.join(map(repr, self.streams))}")
        found = [gram for (name, where), gram in self.grams.items() if where == site and stream in (None, name)]
        return np.asarray(np.sum(found, axis=0), dtype=np.float64)

    def norms(self, site: Site, stream: str | None = None) -> Array:
        """Return ``(S, T)`` L2 norms of the features at a site."""
        return np.asarray(np.sqrt(np.einsum("stt->st", self.gram(site, stream))), dtype=np.float64)

    def embedding(self, site: Site, stream: str = "") -> Array:
        """Return ``(S, T, T)``: for each step a vector of T numbers, such that all inner products are those
        of the features.

        Whatever only adds, scales and measures lengths and angles cannot tell them from the features: linear
        predictors and L2 gates run on them as they are. Sums of absolute values (L1) are others.
        """
        values, vectors = np.linalg.eigh(self.gram(site, stream))
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :])

    def save(self, path: Path) -> Path:
        """Write the file, whole or not at all. Returns its path, which ends in ``.safetensors``."""
        from safetensors.numpy import save

        path = path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
        lower = np.tril_indices(self.num_steps)
        tensors = {f"gram/{stream}/{site}": np.ascontiguousarray(gram[:, lower[0], lower[1]]) for (stream, site), gram in self.grams.items()}
        tensors |= {"sensitivity": self.sensitivity, "final_norm": self.final_norm}
        names = [field.name for field in attrs.fields(Trace) if field.name not in ("grams", *tensors)]
        facts = {name: getattr(self, name) for name in names}
        text = json.dumps(plain({**facts, "target": None if self.target is None else str(self.target)}))
        metadata = {"format": FILE.format, "trace": text, "sha256": _digest(tensors, text)}
        return write_whole(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read a file.

        Raises:
            OptionError: It cannot be read, is no trace, or is damaged; the message says what differs.
        """
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError as error:
            raise OptionError("reading a trace needs safetensors: pip install 'foreseer[workbench]'") from error
        with FILE.opened(path, SafetensorError), safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        FILE.check_format(path, metadata.get("format", "nothing"))
        FILE.check_seal(path, metadata.get("sha256"), _digest(tensors, metadata.get("trace", "")))
        with FILE.content(path):
            return cls._of(json.loads(metadata["trace"]), tensors)

    @classmethod
    def _of(cls, facts: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Trace:
        """Put together what `save` took apart."""
        lower = np.tril_indices(facts["signature"]["num_steps"])
        grams = {}
        for name, packed in tensors.items():
            if name.startswith("gram/"):
                _, stream, site = name.split("/")
                gram = np.zeros((len(packed), lower[0][-1] + 1, lower[0][-1] + 1))
                gram[:, lower[0], lower[1]] = packed
                gram[:, lower[1], lower[0]] = packed
                grams[stream, site_named(site)] = gram
        target = None if facts["target"] is None else site_named(facts["target"])
        trace = structured(cls, {**facts, **tensors, "target": target, "grams": grams})
        counts = {len(gram) for gram in grams.values()} | {len(norms) for norms in (trace.sensitivity, trace.final_norm) if norms.size} | {len(trace.labels)}
        if len(counts) > 1:
            raise OptionError(f"it holds numbers of {' and of '.join(map(str, sorted(counts)))} samples")
        return trace


def _digest(tensors: Mapping[str, NDArray[Any]], text: str) -> str:
    """Of the numbers and of what is said about them."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return digest.hexdigest()
