"""What one pass records for the history, and what it sees for gates."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from torch import Tensor

from foreseer.adapters.arguments import are_cut, own_tokens, shapes_of, stream_of
from foreseer.adapters.layouts import Layout
from foreseer.adapters.starts import Starts
from foreseer.errors import UnsupportedModelError
from foreseer.site import Site, site_of
from foreseer.types import Evidence

if TYPE_CHECKING:
    from foreseer.adapters.anatomy import Anatomy

__all__ = ["Abandoned", "Notes", "RaggedError", "Unlike"]


class Abandoned(BaseException):
    """Ends a pass that need not go on. Not an Exception, so that no host swallows it on the way."""


class Unlike(BaseException):
    """Ends a pass in which something is shaped otherwise than what was learnt about such calls. The text says
    what. Not an Exception, as `Abandoned`.
    """


class RaggedError(UnsupportedModelError):
    """Some rows of a batch are shaped otherwise when they are alone: a model cuts its texts to the longest of
    a call. The text says which.
    """


class Notes:
    """See the module.

    Args:
        anatomy: What is known of the model; layouts are learnt.
        rows: Rows in the pass.
        record: As in `foreseer.backbone.Backbone.forward`.
        see: Likewise.
        starts: What lies where residuals start.
        clone: Record copies, because something writes to the tensors afterwards.
        whole: Rows of the batch that these were taken out of; None where they are all of them.
        shards: Among how many processes the model may divide its tokens.

    Attributes:
        features: By site, ``(rows, ...)``.
        ends: What blocks returned at which recorded residuals end.
        seen: As in `Pass`.
        pure: Whether nothing was forecast yet, so that what is computed is what computing gives.
    """

    def __init__(
        self, anatomy: Anatomy, rows: int, record: Collection[Site], see: Collection[Site], starts: Starts, *, clone: bool, whole: int | None, shards: int
    ) -> None:
        self._anatomy, self._rows, self._record, self._see, self._starts = anatomy, rows, record, see, starts
        self._clone, self._whole, self._shards = clone, whole, shards
        self._residuals = [site for site in record if site.since is not None]
        self.features: dict[Site, Tensor] = {}
        self.ends: dict[Site, Tensor] = {}
        self.seen: dict[Site, Tensor] = {}
        self.pure = True
        self._versions: list[tuple[Tensor, int]] = []

    @property
    def untouched(self) -> bool:
        """Whether nobody wrote to a recorded feature, or to what a residual starts from, since it was kept."""
        return all(tensor._version == version for tensor, version in (*self._versions, *self._starts.versions))

    def arrive(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hold what arrives at the first block against what did when the model was examined."""
        anatomy = self._anatomy
        if self._whole is None and anatomy.arrival is not None:
            if shapes_of(args, kwargs) != anatomy.arrival:
                raise Unlike("what arrives at the first block has other shapes or dtypes than when the model was examined")
        elif self._whole is None and self._record:
            anatomy.arrival = shapes_of(args, kwargs)
        elif self._whole is not None and anatomy.arrival and not are_cut(anatomy.arrival, shapes_of(args, kwargs), self._whole, self._rows):
            raise RaggedError(f"{self._rows} of the {self._whole} rows arrive at the first block in another shape when they are alone")

    def add(self, site: Site, output: Any, what: str) -> None:
        """Record what was computed, if it is what the layout says. What nobody but an observer wants to see
        is left out where it is something else.
        """
        layouts = self._anatomy.layouts
        try:
            if site not in layouts:
                second = self._anatomy.order[site.block] in self._anatomy.wires.second
                layouts[site] = Layout.of(output, self._rows, second=second, what=what)
            elif not layouts[site].fits(output, self._rows):
                if self._whole is not None:
                    raise UnsupportedModelError(f"{what} returns something else for {self._rows} of the {self._whole} rows alone")
                if self._anatomy.claims(site):
                    raise Unlike(f"{what} returned something of another shape or dtype than when the model was examined")
                return
        except UnsupportedModelError:
            if self._anatomy.claims(site):
                raise
            return
        self._keep(site, layouts[site].pack(output), self.features)

    def computed(self, wire: int, index: int, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A block was computed: record what it returned, and what was added up to here, and see what is to be
        seen of it.
        """
        layouts, block, site = self._anatomy.layouts, self._anatomy.block(index), site_of(index)
        what = f"block {index} ({type(block).__name__})"
        if self._record and site not in layouts:
            hidden, second = stream_of(block, args, kwargs), wire in self._anatomy.wires.second
            try:
                layouts[site] = Layout.of(output, self._rows, hidden=hidden, shards=self._shards, second=second, what=what)
            except UnsupportedModelError:
                # Where the model's output stands in for the last block, nobody needs to know what the others
                # return.
                if self._anatomy.claims(site) and (site in self._record or not self._anatomy.output_for_last):
                    raise
                return
        elif self._whole is not None and site in layouts and not layouts[site].fits(output, self._rows):
            if layouts[site].rows_are_second(output, self._rows, self._whole):
                self._anatomy.wires.second.add(wire)
                raise Unlike(f"the rows of what {what} returns are not where they seemed to be")
            raise UnsupportedModelError(f"{what} returns something else for {self._rows} of the {self._whole} rows alone")
        if site in self._record:
            self.add(site, output, what)
        if not (self._residuals or self._see) or site not in layouts:
            return
        layout = layouts[site]
        for residual in self._residuals:
            if residual.end == site:
                self._keep(site, layout.pack(output), self.ends)
                self.features[residual] = self.ends[site] - layout.join(self._starts.at(residual))
        if self.pure:
            self.seen |= {site: own_tokens(block, args, kwargs, self.shown(site, output)) for site in self._see if site.end == site_of(index)}

    def shown(self, site: Site, output: Any) -> Tensor:
        """Return what a gate is shown of a computed block, or of what was added up to it."""
        layout = self._anatomy.layouts[site_of(site.block)]
        shown = layout.evidence(output).detach()
        return shown if site.since is None else shown - layout.main_of(self._starts.at(site))

    def evidence(self, site: Site, args: tuple[Any, ...], kwargs: dict[str, Any], computed: Tensor, forecast: Tensor | None) -> Evidence:
        """Return what a judge is shown of a block, or of what lies in front of the first, without tokens that
        only fill up a row.
        """
        block = self._anatomy.block(max(site.block, 0))
        own = [None if each is None else own_tokens(block, args, kwargs, each) for each in (computed, forecast)]
        others = {place: Evidence(place, tensor, None) for place, tensor in self.seen.items() if place != site}
        assert own[0] is not None
        return Evidence(site, own[0], own[1], others=others)

    def _keep(self, site: Site, feature: Tensor, into: dict[Site, Tensor]) -> None:
        feature = feature.detach()
        alone = into is self.features and not self._anatomy.claims(site)  # for an observer alone no pass is repeated
        if self._clone or feature.is_inference() or alone:
            into[site] = feature.clone()
        else:
            into[site] = feature
            self._versions.append((feature, feature._version))
