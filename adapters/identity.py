"""Which model or scheduler it is: its class and a hash of its configuration, so that what was found on one is
not used on another unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["identity_of"]

DIGITS = 12


def identity_of(what: Any) -> str:
    """Return class and configuration in one word: ``"DiTTransformer2DModel-5d41402abc4b"``.

    Weights are not looked at: a fine-tuned model has the identity of its parent. Where there is no
    configuration the names and shapes of the parameters are taken, and where there are none, the class alone.

    Args:
        what: A model, compiled or not, or a scheduler of diffusers.
    """
    what = getattr(what, "_orig_mod", what)
    config = getattr(what, "config", None)
    if isinstance(config, Mapping):
        # keys with an underscore say where it was loaded from, and by which version
        facts: Any = {str(key): value for key, value in config.items() if not str(key).startswith("_")}
    elif isinstance(what, nn.Module):
        facts = {name: list(parameter.shape) for name, parameter in what.named_parameters()}
    else:
        return type(what).__name__
    text = json.dumps(facts, sort_keys=True, default=str)
    return f"{type(what).__name__}-{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"
