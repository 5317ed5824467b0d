"""A package that needs a newer foreseer and says so only to pip."""

from foreseer import NotYetInvented


def hasty():
    """A policy that needs something newer."""
    return NotYetInvented()
