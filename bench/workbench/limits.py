"""What every planned schedule must do."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from foreseer.bench.fields import whole

__all__ = ["Limits"]


@attrs.frozen(kw_only=True)
class Limits:
    """What every schedule must do, besides computing step 0.

    Attributes:
        first: Steps that are computed at the start, at least 1.
        last: Steps that are computed at the end.
        max_gap: Most steps from one computed step to the next, and from the last one to the end of the run;
            None for no limit.

    Raises:
        OptionError: A value is out of range.
    """

    first: int = attrs.field(default=1, validator=whole(1))
    last: int = attrs.field(default=0, validator=whole(0))
    max_gap: int | None = attrs.field(default=None, validator=attrs.validators.optional(whole(1)))

    def forced(self, num_steps: int) -> NDArray[np.bool_]:
        """Return ``(T,)`` steps that must be computed."""
        index = np.arange(num_steps)
        return np.asarray((index < self.first) | (index >= num_steps - self.last))
