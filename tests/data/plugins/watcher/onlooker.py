"""A third party's observer."""

from typing import Annotated

import foreseer
from foreseer.options import at_least, checked

built = 0


class Onlooker:
    """Counts steps."""

    def __init__(self, every):
        global built
        built += 1
        self.every, self.seen = every, []

    @foreseer.hookimpl
    def on_step(self, step):
        if step.index % self.every == 0:
            self.seen.append(step.index)
            log.append(step.index)


log = []


@checked
def onlooker(*, every: Annotated[int, at_least(1)] = 1):
    """Note every so many steps."""
    return Onlooker(every)
