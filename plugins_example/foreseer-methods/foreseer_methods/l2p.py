"""L2P (arXiv 2604.26365): the weights of a forecast are learned for each step, from a few recorded trajectories.

The mean squared error of a weighted sum of features is quadratic in the weights, with inner products of the
features for coefficients. So what is to be learned of the trajectories is one matrix of T x T numbers for each
site, and the best weights for any computed steps solve K equations: G_cc w = G_ck, with c the computed steps and
k the one to forecast. The paper descends by gradients to the same minimum, for one schedule; here the table
serves every schedule and gate. A `foreseer.workbench.Trace` holds the inner products.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.options import at_least, at_least_float, checked, cites
from foreseer.reading import Written, reads
from foreseer.signature import Signature
from foreseer.types import Drafts, History, Needs, Run, Site, Step, Weights

if TYPE_CHECKING:
    from foreseer.workbench import Trace

__all__ = ["LearnedWeights", "Table", "fit", "l2p"]

FORMAT = "foreseer-methods l2p 1"


@attrs.frozen(eq=False)
class Table:
    """What was learned of some trajectories.

    Attributes:
        signature: What they were recorded on.
        products: ``site -> (T, T)`` inner products of the features of two steps, mean over samples, with a mean
            square of 1. Sites by their text.
    """

    signature: Signature
    products: Mapping[str, NDArray[np.float64]] = attrs.field(repr=False)

    def weights(self, site: Site, anchors: tuple[float, ...], target: float, *, ridge: float = 1e-6) -> tuple[float, ...]:
        """Return the weights with the least mean squared error over the trajectories, newest first.

        Args:
            site: What is forecast.
            anchors: Step indices of the computed steps, newest first; at least one.
            target: Step index to forecast.
            ridge: Penalty of large weights, in parts of a feature's mean square.

        Raises:
            OptionError: The site was not recorded.
        """
        if str(site) not in self.products:
            raise OptionError(f"l2p: the table has {', '.join(self.products)}, and {site} is forecast; record it with --sites and fit again")
        gram, known = self.products[str(site)], [int(a) for a in anchors]
        within = gram[np.ix_(known, known)] + ridge * np.eye(len(known))
        return tuple(np.linalg.solve(within, gram[known, int(target)]).tolist())

    def save(self, path: Path) -> Path:
        """Write it as JSON; return the path."""
        content = {"format": FORMAT, "signature": attrs.asdict(self.signature), "products": {site: gram.tolist() for site, gram in self.products.items()}}
        path.write_text(json.dumps(content))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Table:
        """Read a file that `save` wrote.

        Raises:
            OptionError: It cannot be read, or is none.
        """
        try:
            content = json.loads(Path(path).read_text())
            if content["format"] != FORMAT:
                raise ValueError(content["format"])
            products = {site: np.array(gram, dtype=np.float64) for site, gram in content["products"].items()}
            return cls(Signature(**content["signature"]), products)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(f"l2p: table={str(path)!r} is no table: {error}; fit one with foreseer_methods.l2p.fit(trace).save(path)") from error


def fit(trace: Trace) -> Table:
    """Learn a table from recorded trajectories (``foreseer record``): all its sites, all streams together.

    Each sample counts as it is: one with larger features counts more, as in a mean squared error.

    Args:
        trace: The recording.
    """
    products = {}
    for site in trace.sites:
        gram = trace.gram(site).sum(axis=0)
        products[str(site)] = gram / (np.trace(gram) / len(gram) or 1.0)
    return Table(trace.signature, products)


def read_table(table: Any) -> Any:
    """Return a table's file together with the table in it; anything else as it is."""
    named = isinstance(table, (str, Path)) and not isinstance(table, Written)
    return Written(str(table), Table.load(table)) if named else table


@attrs.define(eq=False)
class LearnedWeights:
    """Predictor: each site by its own table, each row by its own computed steps.

    Attributes:
        table: What was learned; None computes everything.
        anchors: How many computed features a forecast uses.
        ridge: As `Table.weights` has it.
        any_model: Whether to use the table on another model or scheduler.
        linear: A forecast is linear in the features, by construction.
    """

    linear = True
    table: Table | None
    anchors: int
    ridge: float
    any_model: bool
    _start: int = attrs.field(default=0, init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Refuse runs that the table is not for."""
        self._start = run.start
        if self.table is None:
            return Needs(anchors=1, note="l2p has no table, so that every step is computed; write l2p:table=FILE")
        signature = self.table.signature
        found = (attrs.evolve(signature, model="", scheduler="") if self.any_model else signature).conflicts(run.whole())
        if found:
            raise OptionError(f"l2p: the table was fitted on other runs: {'; '.join(found)}; record and fit again, or write any_model=True for another model")
        return Needs(anchors=self.anchors)

    @hookimpl
    def predict_features(self, step: Step, sites: tuple[Site, ...], history: History) -> Drafts | None:
        """Solve for the weights; None behind the last recorded step."""
        table, start = self.table, self._start
        if table is None or step.index + start >= table.signature.num_steps:
            return None

        def weights(site: Site) -> Weights:
            def per_row(anchors: tuple[float, ...], target: float) -> tuple[float, ...]:
                return table.weights(site, tuple(a + start for a in anchors[: self.anchors]), target + start, ridge=self.ridge)

            return Weights.per_row(per_row, history.anchors, step.index)

        return {site: weights(site) for site in sites}


@cites(
    """@inproceedings{shen2026l2p,
  title={Beyond Fixed Formulas: Data-Driven Linear Predictor for Efficient Diffusion Models},
  author={Shen, Zhirong and Huang, Rui and Liu, Jiacheng and Zou, Chang and Cai, Peiliang and Zheng, Shikang and Shi,
  Zhengyi and Feng, Liang and Zhang, Linfeng},
  booktitle={CVPR}, year={2026}, note={arXiv:2604.26365}}"""
)
@reads(table=read_table)
@checked
def l2p(
    *,
    table: str | Path | Table | None = None,
    anchors: Annotated[int, at_least(1)] = 2,
    ridge: Annotated[float, at_least_float(0.0)] = 1e-6,
    any_model: bool = False,
) -> LearnedWeights:
    """Predictor: weights learned for each step from recorded trajectories (L2P, arXiv 2604.26365).

    Use it under a schedule or gate: ``taylorseer:target=last_block,predictor=(l2p:table=l2p.json)``.

    Args:
        table: A file that ``fit(trace).save(path)`` wrote, or a `Table`. It holds for one model, scheduler and
            number of steps. None computes everything, and the report says so.
        anchors: How many computed features a forecast uses; ours, the paper's number was not confirmed. More fit
            the recorded trajectories better, and were worse in runs of others.
        ridge: Penalty of large weights, in parts of a feature's mean square; ours.
        any_model: Use the table on another model or scheduler.
    """
    value = table.value if isinstance(table, Written) else table
    loaded = Table.load(value) if isinstance(value, (str, Path)) else value
    return LearnedWeights(loaded, anchors, ridge, any_model)
