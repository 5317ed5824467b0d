"""Another third party's module, with a policy of the same name."""

from foreseer import hookimpl


class Never:
    """Compute everything."""

    @hookimpl
    def before_step(self):
        return None


def halves():
    """Compute everything, under a name that was taken."""
    return Never()
