"""What an attachment found out about its models, for the next one.

So a host that attaches for each sampling, and detaches after it, has a model examined once.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import attrs
from torch import nn

from foreseer.adapters.anatomy import Anatomy
from foreseer.adapters.wires import Wires

__all__ = ["KINDS", "Findings", "Key", "Learnt"]

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


class Learnt:
    """What was found out about a model by all who share its `Wires`, for those who come later.

    Of each kind of call it holds what was learnt for any sites: that of two who found the same order of blocks
    is put together.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, object], dict[str, Any]] = {}
        self._adding = threading.Lock()

    def of(self, key: Key, version: int) -> Mapping[str, Any] | None:
        """Return what is known of such calls of the model in this version; None for nothing."""
        return self._kinds.get((version, key.signature))

    def add(self, key: Key, anatomy: Anatomy) -> None:
        """Add what was learnt."""
        if anatomy.examined and not anatomy.limited:
            with self._adding:
                self._add((anatomy.version, key.signature), anatomy)

    def _add(self, kind: tuple[int, object], anatomy: Anatomy) -> None:
        known = self._kinds.get(kind)
        if known is not None and anatomy.examined <= known["examined"] and anatomy.compared <= known["compared"] and anatomy.modulated <= known["modulated"]:
            return
        learnt = dict(anatomy.learnt)
        facts = {name: value for name, value in learnt.items() if name not in ("notes", "modulated") and isinstance(value, (bool, list, frozenset))}
        if known is not None and all(known[name] == value for name, value in facts.items()):
            learnt |= {name: known[name] | value for name, value in learnt.items() if name == "modulated" or isinstance(value, (set, dict))}
        self._kinds.pop(kind, None)
        self._kinds[kind] = learnt
        while len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]
