"""What a plugin shares with its process and must leave as it was, what it holds on to, and another process in
which it is tried.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gc
import importlib
import importlib.util
import inspect
import io
import os
import pickle
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreseer.registry import PolicySpec
from foreseer.testing.elsewhere import in_processes
from foreseer.testing.plays import play
from foreseer.testing.subject import subjects_of
from foreseer.testing.worlds import World, mixed


def _set_environment(values: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)  # "cpu" would slow every later call of torch


SHARED: dict[str, tuple[Callable[[], Any], Callable[[Any], object] | None]] = {
    "the random numbers of random": (random.getstate, random.setstate),
    "the random numbers of numpy": (np.random.get_state, np.random.set_state),
    "the random numbers of torch": (torch.get_rng_state, torch.set_rng_state),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, _set_default_device),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "torch's precision of matrix products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch.backends.cudnn.benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        functools.partial(setattr, torch.backends.cudnn, "benchmark"),
    ),
    "CUDA, which was initialised": (torch.cuda.is_initialized, None),
    "the environment": (lambda: dict(os.environ), _set_environment),
    "the working folder": (os.getcwd, os.chdir),
}
"""``what -> (how to read it, how to put it back or None)``."""


def snapshot() -> dict[str, Any]:
    """Read everything that is shared."""
    return {what: read() for what, (read, _) in SHARED.items()}


def changed_since(before: dict[str, Any]) -> list[str]:
    """Say what differs from a `snapshot`, in words."""
    now = snapshot()
    return [what for what in before if str(_plain(before[what])) != str(_plain(now[what]))]


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put everything back at the end, whatever happened: a wrong policy must not spoil the tests that follow
    it.
    """
    before = snapshot()
    try:
        yield
    finally:
        for what in changed_since(before):
            restore = SHARED[what][1]
            if restore is not None:
                restore(before[what])


def _plain(value: Any) -> Any:
    """The same with tensors and arrays as bytes, which are printed whole."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


CLOSED = (types.ModuleType, types.FrameType, type)
CONTAINERS = (list, tuple, dict, set, frozenset, deque, types.MappingProxyType)
KEPT = (*CONTAINERS, functools._lru_cache_wrapper, Tensor, np.ndarray)


def held(plugins: Iterable[object]) -> list[Tensor | np.ndarray[Any, Any]]:
    """Return the tensors and arrays that can be reached from the plugins: through attributes, slots,
    containers, closures, bound arguments and caches, and through the variables of their classes and modules.
    Other modules, and other classes, are not entered.
    """
    plugins = list(plugins)
    return [thing for thing in _reached([*plugins, *_shared(plugins)]) if isinstance(thing, (Tensor, np.ndarray))]


def bytes_held(plugins: Iterable[object]) -> int:
    """Bytes of the tensors and arrays that can be reached; of a view, those of all that it keeps alive."""
    sizes = {}
    for thing in held(plugins):
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        else:
            sizes[id(thing)] = thing.nbytes
    return sum(sizes.values())


def left_behind(plugins: Iterable[object]) -> int:
    """How many entries all containers have that would still be there without the plugins: those of their
    classes, modules, closures and caches.
    """
    return sum(len(thing) for thing in _reached(_shared(list(plugins))) if isinstance(thing, CONTAINERS))


def _shared(plugins: list[object]) -> list[Any]:
    """Where a walk of what the plugins share begins: the variables of their classes, and of the modules of
    these.
    """
    classes = {type(plugin) for plugin in plugins}
    roots: list[Any] = [vars(cls) for cls in classes]
    for name in {cls.__module__ for cls in classes}:
        if name in sys.modules and not name.startswith("foreseer."):
            roots += (
                value
                for value in vars(sys.modules[name]).values()
                if isinstance(value, KEPT) or name in (getattr(value, "__module__", ""), type(value).__module__)
            )
    return roots


def _reached(roots: list[Any]) -> list[Any]:
    """Everything that can be reached, once."""
    found: dict[int, Any] = {}  # which keeps every id its owner's
    ahead = deque(roots)
    while ahead:
        thing = ahead.popleft()
        if id(thing) in found or isinstance(thing, CLOSED):
            continue
        found[id(thing)] = thing
        if isinstance(thing, types.FunctionType):  # and not its module
            ahead += [thing.__defaults__, thing.__kwdefaults__, thing.__closure__]
        elif not isinstance(thing, (Tensor, np.ndarray)):
            ahead += [getattr(thing, "__dict__", None), *gc.get_referents(thing)]
    return list(found.values())


def home_of(spec: PolicySpec) -> tuple[str, str] | None:
    """The module in which a policy's factory lives, and its file; None where it cannot be imported."""
    module = getattr(spec.factory, "__module__", None) or type(spec.factory).__module__
    if module in ("__main__", "builtins", "functools"):
        return None
    try:
        return module, inspect.getsourcefile(sys.modules[module]) or ""
    except (TypeError, KeyError):
        return module, ""


@functools.lru_cache(maxsize=64)  # many policies live in one module
def changed_by_import(module: str, file: str) -> tuple[str, ...]:
    """What importing a module changes, in words."""
    (done,) = in_processes(try_here, {"module": module, "file": file}, (1,))
    return (f"it cannot be imported by itself: {done.message}",) if done.code else tuple(done.output)


def runs_elsewhere(spec: PolicySpec, seeds: Sequence[int]) -> list[str]:
    """What the policy does in a process of each hash seed; empty where its factory or its options cannot be
    sent to one.
    """
    home = home_of(spec)
    try:
        sent = base64.b64encode(pickle.dumps((spec.name, spec.factory, dict(spec.options)))).decode()
    except (pickle.PicklingError, AttributeError, TypeError):
        return []
    if home is None:
        return []
    told = in_processes(try_here, {"module": home[0], "file": home[1], "spec": sent}, seeds)
    return [] if any(done.code for done in told) else ["\n".join(done.output) for done in told]


def try_here(task: dict[str, Any]) -> list[str]:
    """In a process of its own: what importing a policy's module changes, in words; or, with a ``"spec"``, what
    the policy does.
    """
    before, out = snapshot(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        _load(task["module"], task["file"])
    changed = changed_since(before)
    if out.getvalue().strip():
        changed.append(f"the output: {out.getvalue().strip().splitlines()[0]!r}")
    if "spec" not in task:
        return changed
    name, factory, options = pickle.loads(base64.b64decode(task["spec"]))
    subjects = subjects_of(PolicySpec(name, factory, options))
    with contextlib.redirect_stdout(out):
        return [str(play(subject, World(mixed)).trace()) for subject in subjects]


def _load(module: str, file: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not file or (error.name or "") not in (module, module.split(".")[0]):
            raise
        found = importlib.util.spec_from_file_location(module, file)
        if found is None or found.loader is None:
            raise
        loaded = importlib.util.module_from_spec(found)
        sys.modules[module] = loaded
        found.loader.exec_module(loaded)
