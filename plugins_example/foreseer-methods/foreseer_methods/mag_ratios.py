"""Tables of how the size of a residual changes from step to step, |R_k| / |R_k-1|, for `mag_cache`: measured,
read, and rescaled to other numbers of steps.

A table belongs to a model. Taking the nearest entry for another number of steps, as released, keeps the
ratios of single steps although the steps became longer or shorter; ``"log"`` keeps what they multiply up to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer import Evidence, Needs, OptionError, Plan, Probe, Report, Run, Site, Step, Verdict, hookimpl
from foreseer.metrics import Metric
from foreseer.options import checked
from foreseer.policies import predictor_from, taylor

__all__ = ["FLUX", "MagnitudeGauge", "Rescale", "Table", "mag_calibration", "mag_ratios", "mag_ratios_of_products", "mag_table", "read_tables", "rescaled"]

Rescale = Literal["nearest", "log"]
Table = tuple[float, ...]
FLUX = (
    *(1, 1.21094, 1.11719, 1.07812, 1.0625, 1.03906, 1.03125, 1.03906, 1.02344, 1.03125, 1.02344, 0.98047, 1.01562, 1.00781),
    *(1, 1.00781, 1, 1.00781, 1, 1, 0.99609, 0.99609, 0.98047, 0.98828, 0.96484, 0.95703, 0.93359, 0.89062),
)
"""FLUX.1-dev at 28 steps, as published."""


def rescaled(ratios: Sequence[float], num_steps: int, how: Rescale = "nearest") -> Table:
    """Return a table for another number of steps.

    Args:
        ratios: ``(n,)`` the table.
        num_steps: Steps of the run, T.
        how: ``"nearest"``: the entry at the nearest share of the run, as released; T = 1 takes the last.
            ``"log"``: the logarithm of the size is interpolated over the share of the run, and differenced.

    >>> rescaled((1, 2, 2, 2, 2), 3), rescaled((1, 2, 2, 2, 2), 3, "log")
    ((1.0, 2.0, 2.0), (1.0, 4.0, 4.0))
    """
    table = np.asarray(ratios, dtype=float)
    if len(table) == num_steps:
        return tuple(table.tolist())
    if how == "log":
        sizes = np.concatenate([[0.0], np.cumsum(np.log(table[1:]))])
        sizes = np.interp(np.linspace(0, len(table) - 1, num_steps), np.arange(len(table)), sizes)
        return (1.0, *np.exp(np.diff(sizes)).tolist())
    if num_steps == 1:
        return (float(table[-1]),)
    places = np.arange(num_steps, dtype=np.float32) * np.float32((len(table) - 1) / (num_steps - 1))  # in float32, as released
    return tuple(table[np.rint(places).astype(int)].tolist())


def mag_ratios(residuals: Tensor | NDArray[Any]) -> Table:
    """Return a table from what all blocks together added, as published: the mean over rows and tokens of the
    ratio of a token's norms in two steps, in float32.

    Args:
        residuals: ``(T, R, tokens, C)`` the features of ``Site(L-1, since=-1)`` in T steps of full computation.

    Returns:
        ``(T,)``, the first of them 1.
    """
    tensor = torch.as_tensor(residuals)
    return (1.0, *MAGNITUDE(tensor[:-1].flatten(1, 2), tensor[1:].flatten(1, 2)).tolist())


def mag_ratios_of_products(products: NDArray[np.float64]) -> Table:
    """Return a table from the inner products of a recorded trace, ``trace.grams[stream, Site(L-1, since=-1)]``.

    It knows a sample's norm and not its tokens': the ratios are the mean over samples of the ratio of the
    whole sample's norms. Where all tokens change alike that is the published table.

    Args:
        products: ``(S, T, T)`` inner products of the features of two steps.
    """
    sizes = np.sqrt(np.einsum("stt->st", products))
    return (1.0, *(sizes[:, 1:] / (sizes[:, :-1] + 1e-8)).mean(0).tolist())


def _magnitudes(then: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    before, after = (torch.linalg.vector_norm(tensor.float(), dim=-1).reshape(len(tensor), -1) for tensor in (then, now))
    return (after / (before + 1e-8)).sum(1), torch.full_like(before[:, 0], before.shape[1])


MAGNITUDE = Metric("magnitude", _magnitudes, torch.div)
"""The mean over tokens of the ratio of their norms, now over then."""


@attrs.define(eq=False)
class MagnitudeGauge:
    """Gate: accept nothing, and measure how the size of what all blocks add changes from step to step.

    The run is that of full computation, and its report's errors are the ratios: see `mag_table`.
    """

    decide: ClassVar[str] = "row"
    _groups: tuple[int, ...] = attrs.field(default=(), init=False, repr=False)
    _sites: tuple[Site, ...] = attrs.field(default=(), init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Look at what all blocks add."""
        self._groups, self._sites = run.groups, (Site(run.depth - 1, since=-1),)
        return Needs(sites=self._sites, evidence=self._sites)

    @hookimpl
    def before_step(self, step: Step) -> Plan:
        """Probe behind the last block: whatever is forecast is computed as well."""
        return Plan(forecast=self._sites, probe=Probe(self._sites[0])) if step.index else Plan()

    @hookimpl
    def verify(self, evidence: Evidence) -> Verdict:
        """The ratio; no."""
        ratio = evidence.error(MAGNITUDE, groups=self._groups, against="before")
        return Verdict(ratio, torch.zeros_like(ratio, dtype=torch.bool))


@checked
def mag_calibration() -> tuple[MagnitudeGauge, object]:
    """Compute everything, and measure the table of `mag_cache` (MagCache's calibration; diffusers'
    ``calibrate=True``).

    Of a model with a text and an image stream, that of the image. The output is that of the bare model.
    Afterwards: ``mag_table(attached.report)``, or one for each of ``attached.reports``.
    """
    return MagnitudeGauge(), predictor_from(taylor, max_order=0)


def mag_table(report: Report) -> Table:
    """Return the table that a run with `mag_calibration` has measured: ``(T,)``, the mean over rows, the
    first of them 1.

    Raises:
        OptionError: A step has none: the run had another policy, or left steps out.
    """
    ratios = report.error.mean(axis=1)[1:]
    if not np.isfinite(ratios).all():
        raise OptionError(f"the run of {report.policy} has no ratio for every step; sample with policy 'mag_calibration', every step in turn")
    return (1.0, *ratios.tolist())


def read_tables(ratios: Any) -> dict[str, Table]:
    """Return the tables of the option ``ratios`` of `mag_cache`, by stream. Raises `OptionError`."""
    if isinstance(ratios, (str, Path)):
        try:
            ratios = FLUX if ratios == "flux" else json.loads(Path(ratios).read_text())
        except (OSError, ValueError) as error:
            raise OptionError(f"mag_cache: ratios={str(ratios)!r} is neither 'flux' nor a file with a JSON list of ratios: {error}") from error
    if isinstance(ratios, Tensor):
        ratios = ratios.tolist()
    tables = {} if ratios is None else dict(ratios) if isinstance(ratios, Mapping) else {"": ratios}
    try:
        found = {str(stream): tuple(float(ratio) for ratio in table) for stream, table in tables.items()}
    except (TypeError, ValueError):
        found = {"": ()}
    if any(not table or not all(0 < ratio < np.inf for ratio in table) for table in found.values()):
        raise OptionError(f"mag_cache: ratios={ratios!r} is no table; write one ratio > 0 for each step, such as [1, 1.2, 1.1], or 'flux', or a JSON file")
    return found
