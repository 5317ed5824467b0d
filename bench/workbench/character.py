"""What scheduler, configuration and names say of a workload, and which better solvers fit in the place of its
scheduler.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import attrs

from foreseer.bench.solvers import Solver
from foreseer.bench.workload import Workload
from foreseer.errors import OptionError

__all__ = ["FEW_STEPS", "Character", "character_of", "siblings"]

FEW_STEPS = 12
"""Samplings of at most so many steps are of few steps: each changes as much as several others do."""

BETTER = ("unipc", "dpmpp_2m")
"""Multistep solvers of second order, which fit wherever a first-order solver stands."""

DISTILLED_NAME = re.compile(r"turbo|schnell|lightning|lcm|hyper-?sd|\bdmd|distill", re.IGNORECASE)
DISTILLED_SCHEDULER = re.compile(r"LCM|TCD|FlowMap|Piflow", re.IGNORECASE)
STOCHASTIC_SCHEDULER = re.compile(r"Ancestral|SDE|DDPM|LCM|TCD")


@attrs.frozen(kw_only=True)
class Character:
    """What is known of a workload without drawing anything.

    Attributes:
        scheduler: Class of the scheduler; empty where the loop is the caller's own.
        order: Order of its solver; None where that is not known.
        distilled: What says that the model was distilled to few steps; empty for nothing.
        guided: How it is guided, in words; empty where that is not known.
        stochastic: Whether the scheduler adds noise in each step, so that another number of steps is another
            sample.
    """

    scheduler: str
    order: int | None
    distilled: str
    guided: str
    stochastic: bool

    def sentences(self, num_steps: int) -> list[str]:
        """Say it."""
        order = {None: "", 1: ", of first order", 2: ", of second order"}.get(self.order, f", of order {self.order}")
        with_what = f"with {self.scheduler}{order}" if self.scheduler else "in a loop of the caller's own"
        few = " Those are few." if num_steps <= FEW_STEPS else ""
        said = [f"{num_steps} steps {with_what}.{few}"]
        said += [f"Distilled to few steps: {self.distilled}."] if self.distilled else []
        said += [f"{self.guided}."] if self.guided else []
        if self.stochastic:
            said.append("The scheduler adds noise in each step: with another number of steps the sample is another one, and cannot be compared by PSNR.")
        return said


def character_of(workload: Workload) -> Character:
    """Read what configuration, scheduler and names say."""
    pipeline = workload.pipeline
    scheduler = getattr(pipeline, "scheduler", None)
    name, config = "" if scheduler is None else type(scheduler).__name__, _config(scheduler)
    embedded = _config(workload.model).get("guidance_embeds")
    guided = {True: "Guidance is distilled into the model: one call a step", None: ""}.get(embedded, "")
    stochastic = bool(STOCHASTIC_SCHEDULER.search(name) or config.get("stochastic_sampling") or "sde" in str(config.get("algorithm_type", "")))
    return Character(scheduler=name, order=_order(name, config), distilled=_distilled(workload, name), guided=guided, stochastic=stochastic)


def _distilled(workload: Workload, scheduler: str) -> str:
    if _config(workload.pipeline).get("is_distilled"):
        return "its configuration says is_distilled"
    if DISTILLED_SCHEDULER.search(scheduler):
        return f"its scheduler is {scheduler}"
    for holder in (workload.pipeline, workload.model):
        name = str(getattr(holder, "name_or_path", None) or _config(holder).get("_name_or_path") or "")
        if DISTILLED_NAME.search(name):
            return f"it is called {name}"
    if type(workload.model).__name__ == "FluxTransformer2DModel" and _config(workload.model).get("guidance_embeds") is False:
        return "guidance_embeds is False, as in FLUX.1-schnell"
    return ""


def _order(name: str, config: Mapping[str, Any]) -> int | None:
    if not name:
        return None
    if "solver_order" in config:
        return int(config["solver_order"])
    return 2 if "Heun" in name else 1 if re.search("Euler|DDIM|DDPM|LCM", name) else None


def siblings(scheduler: Any) -> dict[str, Any]:
    """Return better solvers through the same noise levels, by the name of diffusers' class: none where the
    scheduler has none, adds noise, or is of second order itself.

    Args:
        scheduler: A scheduler of diffusers; None for none.
    """
    if scheduler is None:
        return {}
    name, config = type(scheduler).__name__, _config(scheduler)
    better = (_order(name, config) or 1) > 1
    if better or STOCHASTIC_SCHEDULER.search(name) or config.get("stochastic_sampling") or config.get("invert_sigmas"):
        return {}
    # a flow's own levels may end with a leap to almost none, over which nothing is extrapolated
    shifted = name.startswith("FlowMatch") and not config.get("use_dynamic_shifting")
    levels: dict[str, Any] = {"spacing": "uniform", "shift": config.get("shift", 1.0)} if shifted else {"spacing": "own"}
    with contextlib.suppress(OptionError):  # its noise levels are not known
        found = [Solver(kind=kind, **levels).instead_of(scheduler) for kind in BETTER]
        return {type(solver).__name__: solver for solver in found}
    return {}


def _config(holder: Any) -> Mapping[str, Any]:
    config = getattr(holder, "config", None)
    return config if isinstance(config, Mapping) else {}
