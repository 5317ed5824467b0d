"""What every planned schedule must do."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.fields import whole

__all__ = ["Limits"]

WARM_UP = 3
"""Steps at the start that are computed where nothing else is said, of four times as many or more. What is
forecast before there are two computed steps sends some samples elsewhere, and sensitivities of a few others do
not tell.
"""


@attrs.frozen(kw_only=True)
class Limits:
    """What every schedule must do, besides computing step 0.

    Attributes:
        first: Steps that are computed at the start, at least 1. None for 3 in schedules of 12 computed steps or
            more, and 1 in shorter ones.
        last: Steps that are computed at the end.
        max_gap: Most steps from one computed step to the next, and from the last one to the end of the run;
            None for no limit.

    Raises:
        OptionError: A value is out of range.
    """

    first: int | None = attrs.field(default=None, validator=attrs.validators.optional(whole(1)))
    last: int = attrs.field(default=0, validator=whole(0))
    max_gap: int | None = attrs.field(default=None, validator=attrs.validators.optional(whole(1)))

    def forced(self, num_steps: int) -> NDArray[np.bool_]:
        """Return ``(T,)`` steps that must be computed."""
        index = np.arange(num_steps)
        return np.asarray((index < (self.first or 1)) | (index >= num_steps - self.last))

    def each(self, num_steps: int) -> Iterator[tuple[Limits, int]]:
        """Yield limits that say how many steps are computed at the start, and the fewest computed steps of
        schedules under them; later ones replace earlier ones.
        """
        yield attrs.evolve(self, first=self.first or 1), 1
        if self.first is None and WARM_UP + self.last <= num_steps:
            yield attrs.evolve(self, first=WARM_UP), 4 * WARM_UP
