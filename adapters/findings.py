"""What an attachment found out about its models, for the next one.

So a host that attaches for each sampling, and detaches after it, has a model examined once.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from torch import nn

from foreseer.adapters.anatomy import Anatomy
from foreseer.adapters.wires import Wires

__all__ = ["Findings"]


@attrs.frozen(eq=False, repr=False)
class Findings:
    """What was found out about models, by the kind of call. Made by `foreseer.Attachment.findings`.

    It holds no model, feature or tensor, and keeps nothing alive. On a model that is another, or was changed
    since (a module, a hook, a dtype), nothing of it is used.
    """

    _models: Mapping[str, tuple[weakref.ref[nn.Module], object, frozenset[int]]]
    _calls: Mapping[tuple[str, str, object], Mapping[str, Any]]

    @classmethod
    def of(cls, wires: Mapping[str, Wires], anatomies: Iterable[tuple[tuple[str, str, object], Anatomy]]) -> Findings:
        """Gather what holds for the models as they were when they were last looked at."""
        calls = {key: anatomy.learnt for key, anatomy in anatomies if anatomy.version == wires[key[0]].version and anatomy.examined}
        return cls({name: (weakref.ref(wire.model), wire.fingerprint, frozenset(wire.second)) for name, wire in wires.items()}, calls)

    def for_models(self, wires: Mapping[str, Wires]) -> dict[tuple[str, str, object], Mapping[str, Any]]:
        """Return what holds for these models, each for its kind of call."""
        same = set()
        for name in wires.keys() & self._models.keys():
            (model, fingerprint, second), wire = self._models[name], wires[name]
            if model() is wire.model and wire.fingerprint == fingerprint:
                wire.second |= second
                same.add(name)
        return {key: learnt for key, learnt in self._calls.items() if key[0] in same}
