"""Which samples are drawn together, and which of their runs are timed."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["mixed", "pairs_of", "split"]


def split(order: Sequence[int], batch: int) -> list[tuple[int, ...]]:
    """Return the samples of each batch, in the order given; the last may be short."""
    return [tuple(order[i : i + batch]) for i in range(0, len(order), batch)]


def mixed(difficulty: Sequence[float], batch: int) -> list[tuple[int, ...]]:
    """Return batches that each hold easy and hard samples: those ranked by difficulty are dealt out like
    cards.

    Args:
        difficulty: ``(n,)`` of each sample; what is not a number counts as the hardest.
        batch: Samples in a batch; some have one less where they do not come out even.
    """
    ranked = sorted(range(len(difficulty)), key=lambda i: (difficulty[i] != difficulty[i], difficulty[i], i))
    count = -(-len(ranked) // batch)
    return [tuple(ranked[first::count]) for first in range(count)]


def pairs_of(number: int, *, repeats: int, batches: int) -> list[int]:
    """Return which of a lane's timed runs fall to a batch: they are spread over all batches, so that no
    moment of the machine decides.

    Args:
        number: Of the batch.
        repeats: Timed runs of the lane.
        batches: How many batches there are.
    """
    return [pair for pair in range(repeats) if pair * batches // repeats == number]
