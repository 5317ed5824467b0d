"""What an attachment found out about its models, for the next one.

So a host that attaches for each sampling, and detaches after it, has a model examined once.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import attrs
from torch import nn

from foreseer.adapters.anatomy import Anatomy
from foreseer.adapters.wires import Wires

__all__ = ["KINDS", "Findings", "Key"]

KINDS = 24
"""Of how many streams and kinds of call (shapes, arguments) of a model is remembered what was found out."""


class Key(NamedTuple):
    """What tells sessions of a run apart: the denoiser's name, the stream's, and the kind of call."""

    name: str
    stream: str
    signature: object


@attrs.frozen(eq=False, repr=False)
class Findings:
    """What was found out about models, by the kind of call. Made by `foreseer.Attachment.findings`.

    It holds no model, feature or tensor, and keeps nothing alive. On a model that is another, or was changed
    since (a module, a hook, a dtype), nothing of it is used.
    """

    _models: Mapping[str, tuple[weakref.ref[nn.Module], object, frozenset[int]]]
    _calls: Mapping[Key, Mapping[str, Any]]

    @classmethod
    def of(cls, wires: Mapping[str, Wires], anatomies: Iterable[tuple[Key, Anatomy]], taken: Mapping[Key, Mapping[str, Any]]) -> Findings:
        """Gather what holds for the models as they were when they were last looked at.

        Args:
            wires: Of the models, by their names.
            anatomies: What was learnt of each kind of call.
            taken: What was taken over and not learnt again.
        """
        ours = {key: one.learnt for key, one in anatomies if one.version == wires[key.name].version and one.examined and not one.limited}
        calls = dict([*({key: learnt for key, learnt in taken.items() if key not in ours} | ours).items()][-KINDS * len(wires) :])
        return cls({name: (weakref.ref(wire.model), wire.fingerprint, frozenset(wire.second)) for name, wire in wires.items()}, calls)

    def for_models(self, wires: Mapping[str, Wires]) -> dict[Key, Mapping[str, Any]]:
        """Return what holds for these models, each for its kind of call."""
        same = set()
        for name in wires.keys() & self._models.keys():
            (model, fingerprint, second), wire = self._models[name], wires[name]
            if model() is wire.model and wire.fingerprint == fingerprint:
                wire.second |= second
                same.add(name)
        return {key: learnt for key, learnt in self._calls.items() if key.name in same}
