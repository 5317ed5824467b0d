"""A package that uses a hook which this foreseer does not have."""

from foreseer import hookimpl


class BlockWatch:
    """Wants to be asked before every block."""

    @hookimpl
    def before_step(self, step):
        return None

    @hookimpl
    def before_block(self, step, block):
        return None


def blockwatch():
    """A policy with a hook from elsewhere."""
    return BlockWatch()
