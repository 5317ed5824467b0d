"""Where the processor's time goes in a tick of sixteen requests in flight, and in a step of a static batch of as many.

    python tests/benchmarks/in_flight_profile.py flux taylorseer:interval=4,target=last_block

Each moment counts to one part: the innermost of those under way. Milliseconds for each request and evaluation.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from in_flight import REQUESTS, Clock, Dit, Flux, Sampler, in_flight, static
from torch import nn

from foreseer.adapters import joint
from foreseer.adapters.batching import Batch
from foreseer.adapters.blocks import find_blocks
from foreseer.adapters.calls import intercept
from foreseer.adapters.joint import Joint
from foreseer.adapters.passes_together import Together
from foreseer.adapters.requests import Evaluation, Request
from foreseer.bank import FeatureBank
from foreseer.bench.machine import threads

REST = "requests' loops, and what has no name here"


class Parts:
    """Counts processor seconds to the innermost part under way."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._under_way, self._since = [REST], time.process_time()

    def _turn(self) -> None:
        now = time.process_time()
        self.seconds[self._under_way[-1]] += now - self._since
        self._since = now

    def of(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time counts to a part."""

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._under_way.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._turn()
                self._under_way.pop()

        return counted

    def leading(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return what leads visits to a block or a part of one; what is run inside counts to the blocks."""
        counted = self.of("walks: cutting rows, leading each request, putting together", function)

        def led(visitor: Any, wire: int, *where: Any) -> Any:
            *before, inner, args, kwargs = where
            return counted(visitor, wire, *before, self.of("blocks", inner), args, kwargs)

        return led

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Watch a model and the engine."""
        blocks = [intercept(block, lambda inner, args, kwargs: self.of("blocks", inner)(*args, **kwargs)) for _, block in find_blocks(model)]
        whole = intercept(model, lambda inner, args, kwargs: self.of("the model outside of its blocks", inner)(*args, **kwargs))
        with contextlib.ExitStack() as stack:
            for each in (*blocks, whole):
                stack.callback(each.restore)
            for owner, name, part in (
                (Evaluation, "go_on", "sessions, policies and drivers"),
                (Request, "__call__", "asking"),
                (Request, "leave", "joining and leaving"),
                (Batch, "join", "joining and leaving"),
                (Together, "_kind", "which calls are alike"),
                (joint, "join_calls", "arguments joined"),
                (FeatureBank, "forecast", "weighted sums"),
                (FeatureBank, "commit", "features kept"),
            ):
                stack.enter_context(mock.patch.object(owner, name, self.of(part, getattr(owner, name))))
            for name in ("block", "part", "idle"):
                stack.enter_context(mock.patch.object(Joint, name, self.leading(getattr(Joint, name))))
            yield


class Counting(Clock):
    """A clock that also has parts counted, of what it takes the time of."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._parts = parts

    def take(self, work: Callable[[], object], times: int) -> Any:
        """See `Clock`."""
        self._parts.seconds.clear()
        return super().take(work, times)


def main(sampler: Sampler, policy: str, samples: int) -> None:
    """Measure both ways, and print a table."""
    found = []
    with threads(1), torch.no_grad():
        for way, rows in ((static, REQUESTS * samples), (in_flight, samples)):
            parts = Parts()
            with parts.watching(sampler.model):
                way(sampler, policy, rows, Counting(parts))
            found.append(parts.seconds)
    print(f"{'ms':66} static  in flight")
    for part in sorted({*found[0], *found[1]}, key=lambda part: -found[1][part]):
        print(f"{part:66} {1e3 * found[0][part] / len(sampler.times) / REQUESTS:6.2f} {1e3 * found[1][part] / len(sampler.times) / REQUESTS:10.2f}")
    print(f"{'all':66} {1e3 * found[0].total() / len(sampler.times) / REQUESTS:6.2f} {1e3 * found[1].total() / len(sampler.times) / REQUESTS:10.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("dit", "flux"))
    parser.add_argument("policy")
    parser.add_argument("--samples", type=int, default=1, help="of a request")
    given = parser.parse_args()
    main({"dit": Dit, "flux": Flux}[given.model](), given.policy, given.samples)
