"""hypothesis, as the numeric checks use it: the same examples every time, and no database of them.

hypothesis itself keeps a small cache in ``.hypothesis`` of the working folder;
``HYPOTHESIS_STORAGE_DIRECTORY`` puts it elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from foreseer.errors import MissingPackageError

__all__ = ["explore", "need_hypothesis", "strategies"]

F = TypeVar("F", bound=Callable[..., None])


def need_hypothesis() -> Any:
    """Import it. Raises `MissingPackageError`, which says what to install."""
    try:
        import hypothesis
    except ImportError as error:
        raise MissingPackageError("the checks of numbers need hypothesis: pip install 'foreseer[testing]'") from error
    return hypothesis


def strategies() -> Any:
    """Return ``hypothesis.strategies``."""
    need_hypothesis()
    import hypothesis.strategies

    return hypothesis.strategies


def explore(*arguments: Any, examples: int = 20) -> Callable[[F], Callable[[], None]]:
    """Turn a function into one without arguments that tries it with ``examples`` sets of arguments, drawn
    from the strategies.
    """
    hypothesis = need_hypothesis()
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink),
        report_multiple_bugs=False,
    )

    def wrap(function: F) -> Callable[[], None]:
        tried: Callable[[], None] = settings(hypothesis.given(*arguments)(function))
        return tried

    return wrap
