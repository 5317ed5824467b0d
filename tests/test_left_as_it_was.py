"""Laws of detaching: nothing of ours is called any more, everything looks as it did, and no model is kept alive."""

import contextlib
import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tiny import TINY

import foreseer
from foreseer.registry import parse_policy

POLICIES = ["none", "taylorseer:interval=2,max_order=1", "taylorseer:interval=2,target=output", "cg_taylor:threshold=0.5,warmup_steps=2", "speca:threshold=0.5"]
MIXED = [(name, POLICIES[at % len(POLICIES)]) for at, name in enumerate(TINY)]
OURS = str(Path(foreseer.__file__).parent)
STEPS = 3


def everything(pipe: Any) -> list[Any]:
    """A pipeline, its parts, and all modules in them."""
    found = [pipe, *(part for part in pipe.components.values() if hasattr(part, "__dict__"))]
    return [*found, *(module for part in found if isinstance(part, torch.nn.Module) for module in part.modules())]


def looks(pipe: Any) -> list[tuple[int, dict[str, int]]]:
    """Attributes of all of them, by identity where they are callable: what a call of the pipeline changes is numbers."""
    return [(id(each), {key: id(value) if callable(value) else 0 for key, value in vars(each).items()}) for each in everything(pipe)]


def alive(parts: list[Any]) -> list[str]:
    """Which of them nobody has let go. diffusers itself caches a method of its EmbedRope modules, and by it the module."""
    gc.collect()
    found = [type(part()).__name__ for part in parts if part() is not None]
    return [kind for kind in found if not kind.endswith("EmbedRope")]


@contextlib.contextmanager
def ours_called() -> Iterator[set[str]]:
    """Which functions of foreseer are called."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS) and "tests" not in frame.f_code.co_filename:
            found.add(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize(("name", "policy"), MIXED)
def test_what_is_detached_is_as_it_was_and_is_let_go(name: str, policy: str) -> None:
    """Law: the attributes of pipeline, scheduler, guider and every module are those of before; nothing of ours is called or keeps them alive."""
    tiny, pipe = TINY[name], TINY[name].build()
    bare = tiny.call(pipe, steps=STEPS)
    before = looks(pipe)
    attached = foreseer.attach(pipe, parse_policy(policy))
    tiny.call(pipe, steps=STEPS)
    reports = attached.reports
    attached.detach()
    assert looks(pipe) == before
    with ours_called() as called:
        assert torch.equal(tiny.call(pipe, steps=STEPS), bare)
    assert not called
    parts = [weakref.ref(part) for part in everything(pipe)]
    del pipe
    assert alive(parts) == []
    assert list(attached.reports) == list(reports)


class Stopped(Exception):  # noqa: N818
    """What a user raises to stop a model."""


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("how", ["in the middle of a run", "after an exception", "never called", "by leaving the with by an exception"])
@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline:2.2", "HunyuanImagePipeline"])
def test_so_it_is_whenever_it_is_detached(name: str, how: str, policy: str) -> None:
    """Law: as above, also from inside of a step, after a step that raised, and where nothing was ever called."""
    tiny, pipe = TINY[name], TINY[name].build()
    bare = tiny.call(pipe, steps=STEPS)
    before = looks(pipe)
    attached = foreseer.attach(pipe, parse_policy(policy))
    calls = [0]

    def second(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == 2 and how == "in the middle of a run":
            attached.detach()
        elif calls[0] == 2:
            raise Stopped

    handle = pipe.transformer.register_forward_pre_hook(second)
    if how == "by leaving the with by an exception":
        with contextlib.suppress(Stopped), attached:
            tiny.call(pipe, steps=STEPS)
    elif how != "never called":
        with contextlib.suppress(Stopped):
            tiny.call(pipe, steps=STEPS)
    handle.remove()
    attached.detach()
    assert looks(pipe) == before
    with ours_called() as called:
        assert torch.equal(tiny.call(pipe, steps=STEPS), bare)
    assert not called
    parts = [weakref.ref(part) for part in everything(pipe)]
    del pipe, handle
    assert alive(parts) == []
