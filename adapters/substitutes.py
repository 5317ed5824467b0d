"""Features to put in the place of computed ones, in other guises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from foreseer.backbone import Drafted
from foreseer.types import OUTPUT, Site

__all__ = ["Copies", "OutputFor"]


class Copies(Mapping[Site, Tensor]):
    """Substitutes that a model may write into, copied one by one as they are reached, so that no second set
    of features is held.
    """

    def __init__(self, given: Mapping[Site, Tensor]) -> None:
        self._given = given

    def __getitem__(self, site: Site) -> Tensor:
        return self._given[site].clone()

    def __contains__(self, site: object) -> bool:
        return site in self._given

    def __iter__(self) -> Iterator[Site]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


class OutputFor(Drafted):
    """Substitutes in which the model's output is forecast in the place of another site.

    Args:
        given: The substitutes.
        site: What the output stands in for.
        latent: What its draft is added to, where it is what the model adds to its latent; None where it is
            the output itself.
    """

    def __init__(self, given: Mapping[Site, Tensor], site: Site, latent: Tensor | None = None) -> None:
        self._given, self._site, self._latent = given, site, latent

    def reached(self, site: Site, live: Callable[[], Tensor | None], features: Mapping[Site, Tensor] | None = None) -> None:
        """See `Drafted.reached`."""
        if isinstance(self._given, Drafted):
            self._given.reached(site, live, features)

    def __getitem__(self, site: Site) -> Tensor:
        if site != OUTPUT:
            return self._given[site]
        self.reached(self._site, lambda: self._latent)
        return self._given[self._site] if self._latent is None else self._latent + self._given[self._site]

    def __contains__(self, site: object) -> bool:
        return site == OUTPUT or (site != self._site and site in self._given)

    def __iter__(self) -> Iterator[Site]:
        return (OUTPUT if site == self._site else site for site in self._given)

    def __len__(self) -> int:
        return len(self._given)
