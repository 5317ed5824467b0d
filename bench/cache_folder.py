"""The folder in which things are kept from one process to the next."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from foreseer.errors import MissingPackageError

__all__ = ["CACHE", "cache_folder"]

CACHE = "FORESEER_CACHE"
"""Environment variable: the folder to keep things in, where no option says so."""


def cache_folder(given: str | os.PathLike[str] | None) -> Path:
    """Return the folder in which things are kept from one process to the next: the one that is given, else
    that of the variable `CACHE`, else the user's own. Makes nothing.

    Raises:
        MissingPackageError: It is neither given nor set, and platformdirs is missing; or safetensors is, which
            writes and reads what is kept there.
    """
    if importlib.util.find_spec("safetensors") is None:
        raise MissingPackageError("to keep recordings needs safetensors: pip install 'foreseer[diffusers]'")
    if found := given or os.environ.get(CACHE):
        return Path(found).expanduser()
    try:
        from platformdirs import user_cache_path
    except ImportError as error:
        raise MissingPackageError(
            f"to find your cache folder needs platformdirs: pip install 'foreseer[diffusers]', or write cache=FOLDER, or set {CACHE}"
        ) from error
    return user_cache_path("foreseer")
