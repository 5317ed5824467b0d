"""A third party's module: every other step is reused."""

from foreseer import Needs, Plan, Weights, hookimpl


class Halves:
    """Compute the even steps, reuse in the odd ones."""

    @hookimpl
    def setup(self, run):
        self.site = run.sites[-1]
        return Needs(sites=(self.site,))

    @hookimpl
    def before_step(self, step):
        return Plan(forecast=(self.site,)) if step.index % 2 else None

    @hookimpl
    def predict_features(self, step, sites, history):
        return dict.fromkeys(sites, Weights.per_row(lambda anchors, target: (1.0,), history.anchors, step.index))


class Misspelt:
    """Its hook has a name that is none."""

    @hookimpl
    def befor_step(self, step):
        return None


def halves():
    """Reuse every other step."""
    return Halves()


def misspelt():
    """A policy with a misspelt hook."""
    return Misspelt()
