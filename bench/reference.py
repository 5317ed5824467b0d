"""The converged reference: where a sampler is going, drawn once with very many steps, and its own proof.

How near a policy stays to 50 steps of DDIM says nothing of how far those 50 steps are from the solution of
their equation. So each sample is drawn with many steps, and with half as many: what lies between the two bounds
what is still missing. References are kept for every later benchmark of the same model, seed and guidance.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreseer.bench.cache_folder import cache_folder
from foreseer.bench.kept_draws import Draw, KeptDraws
from foreseer.bench.lanes import Sampler
from foreseer.bench.solvers import Solver
from foreseer.bench.source import Drawing, named
from foreseer.document import Document
from foreseer.errors import OptionError
from foreseer.psnr import psnr

__all__ = ["AGREED", "Reference", "fingerprint", "told"]

AGREED = 50.0
"""From here on two resolutions agree, dB: the finer one is then nearer to the limit than any lane that one would
run. What agrees less is said to have not converged.
"""
LOOKED_AT = 1024
"""Numbers of each weight that a fingerprint reads."""
FILE = Document(format="foreseer reference 1", made_by="a benchmark with a reference", again="set FORESEER_CACHE to another folder", sealed=False)


class Reference:
    """Samples as they are in the limit of many steps.

    Args:
        sampler: What draws, by its own solver.
        drawing: Where its samples come from, as the settings have it.
        solver: What takes the steps here.
        steps: How many; half as many prove them.
        folder: Where references of all models are kept; None for the user's cache.

    Attributes:
        agreements: By sample, the PSNR between its two resolutions, dB, of those that were asked for so far.
        steps: As given.

    Raises:
        OptionError: The solver does not fit the workload.
        MissingPackageError: Packages that keep references are missing.
    """

    def __init__(self, sampler: Sampler, drawing: Drawing, solver: Solver, steps: int, *, folder: Path | None = None) -> None:
        half = steps // 2 + (not solver.fits(steps // 2))
        try:
            self._finer, self._coarser = sampler.on(solver, steps), sampler.on(solver, half)
        except OptionError as error:
            raise OptionError(f"reference={str(solver)!r} with reference_steps={steps}: {error}") from error
        self.agreements: dict[int, float] = {}
        self.steps = steps
        facts = named(drawing) | {"weights": fingerprint(sampler.workload), "seed": sampler.seed, "guidance": sampler.guidance}
        # what no configuration says: conditions, and weights that are elsewhere. Rounded, as machines differ
        first = (16 * sampler.draw([0], 2).double().cpu()).round().numpy().tobytes()
        facts |= {"solver": str(solver), "steps": steps, "first sample in two steps": hashlib.sha256(first).hexdigest()[:16]}
        digest = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]
        self._draws = KeptDraws((folder or cache_folder(None)) / "references" / f"{sampler.workload.name.replace('/', '_')[-40:]}-{digest}", facts, FILE)

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return the images or videos of samples, ``(B, ...)`` as `Workload.decode` has them: those that are
        kept, or drawn now, all that are missing at once.

        Raises:
            DamagedDrawError, FileError: See `KeptDraws.draw`.
        """
        names = {index: f"{index} {words}" for index, words in zip(indices, self._finer.workload.words(indices), strict=True)}
        missing = [index for index in indices if not self._draws.has(names[index])]
        made = dict(zip(missing, self._drawn(missing), strict=True)) if missing else {}
        found = [self._draws.draw(names[index], functools.partial(made.__getitem__, index)) for index in indices]
        self.agreements |= {index: float(draw.facts["agreement"]) for index, draw in zip(indices, found, strict=True)}
        return torch.stack([draw.tensors["image"] for draw in found])

    def _drawn(self, indices: Sequence[int]) -> Iterator[Draw]:
        fine, coarse = (one.workload.decode(one.draw(indices)) for one in (self._finer, self._coarser))
        for image, agreement in zip(fine, psnr(coarse, fine).tolist(), strict=True):
            yield Draw(tensors={"image": image}, facts={"agreement": agreement})

    def to_dict(self) -> dict[str, Any]:
        """Return what results say of it: the solver, its ``steps``, and by sample the ``agreement`` with half
        as many.
        """
        agreement = {str(index): value for index, value in sorted(self.agreements.items())}
        return {"solver": str(self._finer.solver), "steps": self.steps, "agreement": agreement}


def told(reference: Mapping[str, Any]) -> str:
    """Say what a reference of results is, and how well it is proved; empty for none."""
    if not reference.get("agreement"):
        return ""
    found, steps = np.array(list(reference["agreement"].values())), reference["steps"]
    proof = f"with half as many the samples are the same to {found.mean():.0f} dB in the mean and {found.min():.0f} in the worst"
    converged = "" if found.min() >= AGREED else f". That is below {AGREED:g} dB: it has not converged, and differences near there mean nothing"
    return f"The truth is {reference['solver']} with {steps} steps; {proof}{converged}."


def fingerprint(workload: Any) -> str:
    """Return what tells the weights of all models of a workload from others: a hash over the shape of each
    weight and `LOOKED_AT` of its numbers.
    """
    components = {"model": workload.model} if workload.pipeline is None else dict(getattr(workload.pipeline, "components", {}))
    digest = hashlib.sha256()
    for name, part in sorted(components.items()):
        for key, weight in part.state_dict().items() if isinstance(part, nn.Module) else ():
            flat = torch.zeros(1) if weight.is_meta else weight.detach().flatten()  # offloaded: its shape must do
            some = flat[:: max(1, flat.numel() // LOOKED_AT)][:LOOKED_AT].float().cpu().numpy()
            digest.update(f"{name} {key} {tuple(weight.shape)}".encode() + some.tobytes())
    return digest.hexdigest()[:16]
