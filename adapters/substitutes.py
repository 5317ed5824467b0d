"""Features to put in the place of computed ones, in other guises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from foreseer.types import OUTPUT, Site

__all__ = ["Copies", "Renamed"]


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


class Renamed(Mapping[Site, Tensor]):
    """Substitutes in which the model's output stands in for the last block."""

    def __init__(self, given: Mapping[Site, Tensor], last: Site) -> None:
        self._given, self._last = given, last

    def __getitem__(self, site: Site) -> Tensor:
        return self._given[self._last if site == OUTPUT else site]

    def __contains__(self, site: object) -> bool:
        return site == OUTPUT or (site != self._last and site in self._given)

    def __iter__(self) -> Iterator[Site]:
        return (OUTPUT if site == self._last else site for site in self._given)

    def __len__(self) -> int:
        return len(self._given)
