"""Which stream a call of the model belongs to, by what ComfyUI says of it.

ComfyUI makes one call of several conditions where their shapes agree and memory suffices, and several calls
where not; that may change from one step to the next. A place in the step tells nothing: windows of a long video
move. So a stream is named by its conditions, and by the window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Names"]

ROLES = ("positive", "negative")


class Names:
    """The names of the streams of one sampling."""

    def __init__(self) -> None:
        self._known: dict[int, list[object]] = {}
        self._in_step: Counter[str] = Counter()

    def step(self) -> None:
        """Begin an evaluation."""
        self._in_step.clear()

    def name(self, options: Mapping[str, Any]) -> str:
        """Name the call that is about to be made.

        Args:
            options: ComfyUI's ``transformer_options``: ``cond_or_uncond`` has an index for each chunk of the
                batch, ``uuids`` which condition of that index it is, ``context_window`` which frames.
        """
        indices: Sequence[int] = options.get("cond_or_uncond") or (0,)
        uuids: Sequence[object] = options.get("uuids") or (None,) * len(indices)
        name = " + ".join(self._chunk(index, uuid) for index, uuid in zip(indices, uuids, strict=False))
        name = " ".join(part for part in (name, _window(options.get("context_window"))) if part)
        self._in_step[name] += 1  # tiles
        return name if self._in_step[name] == 1 else f"{name} ({self._in_step[name]})"

    def _chunk(self, index: int, uuid: object) -> str:
        known = self._known.setdefault(index, [])
        if uuid not in known:
            known.append(uuid)
        role = ROLES[index] if 0 <= index < len(ROLES) else f"cond {index}"
        place = known.index(uuid) + 1
        return role if place == 1 else f"{role} {place}"


def _window(window: Any) -> str:
    """Say which frames a context window holds."""
    frames = list(getattr(window, "index_list", ()))
    if not frames:
        return ""
    starts = [at for at, frame in enumerate(frames) if not at or frame != frames[at - 1] + 1]
    parts = [frames[start:end] for start, end in zip(starts, [*starts[1:], len(frames)], strict=True)]
    return f"frames {','.join(f'{part[0]}..{part[-1]}' for part in parts)}"
