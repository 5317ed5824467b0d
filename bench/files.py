"""Files of results are named after lanes."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["file_names"]


def file_names(lanes: Iterable[str]) -> dict[str, str]:
    """Give each lane a file name without its ending: safe on every system, and unlike the others whatever the
    case of letters means there.
    """
    names: dict[str, str] = {}
    for lane in lanes:
        plain = re.sub(r"[^A-Za-z0-9.=_-]+", "_", lane).strip("._")[:80] or "policy"
        name, count = plain, 1
        while name.lower() in (taken.lower() for taken in names.values()):
            count += 1
            name = f"{plain}-{count}"
        names[lane] = name
    return names
