"""Gates whose verdicts are forced: everything that a gate costs is real, and what it decides is a fixed
pattern.
"""

from __future__ import annotations

from typing import Annotated, Any

import attrs
import torch

from foreseer.errors import OptionError
from foreseer.hookspecs import hookimpl
from foreseer.options import at_least, checked
from foreseer.outcome import Outcome
from foreseer.plugins import Part
from foreseer.reading import Written, reads
from foreseer.registry import parse_policy
from foreseer.types import Evidence, Needs, Plan, Run, Step, Verdict

__all__ = ["ForcedGate", "forced"]


@attrs.define(eq=False)
class ForcedGate:
    """Gate: another gate's plan and evidence, and in the place of its verdict one that has ``computed`` of
    every ``of`` steps computed.

    The draft of step k is rejected where fewer steps were computed so far than ``computed * (k + 1) // of``.
    Steps that the gate computes without a draft count, so that a run of ``of`` steps computes exactly
    ``computed``, unless the gate's own are more. All rows meet one fate.

    Attributes:
        gate: The real gate. It measures its error on the device, and the error goes into the report.
        computed: Steps to compute, of every ``of``.
        of: See ``computed``.
    """

    gate: object
    computed: int
    of: int
    _part: Part = attrs.field(default=attrs.Factory(lambda self: Part(self.gate), takes_self=True), init=False, repr=False)
    _so_far: int = attrs.field(default=0, init=False, repr=False)

    @hookimpl
    def setup(self, run: Run) -> Needs:
        """Record what the gate records."""
        return self._part.setup(run)

    @hookimpl
    def before_step(self, step: Step) -> Plan | None:
        """Plan as the gate does."""
        return self._part.before_step(step)

    @hookimpl
    def verify(self, step: Step, evidence: Evidence) -> Verdict | None:
        """Let the gate judge, and keep its error."""
        verdict = self._part.verify(step, evidence)
        if verdict is None:
            return None
        accept = self._so_far >= self.computed * (step.index + 1) // self.of
        return Verdict(verdict.error, torch.full_like(verdict.accept, accept), verdict.threshold)

    @hookimpl
    def commit(self, step: Step, outcome: Outcome) -> None:
        """Count."""
        self._so_far += outcome.full
        self._part.commit(step, outcome)


def _named(policy: Any) -> Any:
    """Return a policy's text together with the policy."""
    if not isinstance(policy, str) or isinstance(policy, Written):
        return policy
    return Written(policy, parse_policy(policy))


@reads(policy=_named)
@checked
def forced(*, policy: str, computed: Annotated[int, at_least(0)], of: Annotated[int, at_least(1)]) -> tuple[object, ...]:
    """Build a policy whose gate's verdicts are forced.

    Args:
        policy: A policy with a gate, as on the command line.
        computed: Steps to compute, of every ``of``; no more than ``of``.
        of: See ``computed``.

    Raises:
        OptionError: ``computed`` is out of range, or the policy has no gate.
    """
    if computed > of:
        raise OptionError(f"forced: computed={computed} is out of range; write a whole number from 0 to of={of}")
    plugins = _named(policy).value()
    if not any(hasattr(plugin, "verify") for plugin in plugins):
        raise OptionError(f"forced: policy={policy!r} judges nothing; name a policy with a gate, such as 'speca'")
    return tuple(ForcedGate(plugin, computed, of) if hasattr(plugin, "verify") else plugin for plugin in plugins)
