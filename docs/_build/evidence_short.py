"""What each page behind `docs/evidence.md` comes to, in a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from evidence_results import model_of, of_kind
from front import reached_of

from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import Gain, gain, mean_of, worst_of

LINKS = (
    ("[Solvers and caches](evidence/solvers.md)", "every lane behind the tables above", lambda found: ""),
    ("[The papers' claims](evidence/claims.md)", "each with its numbers, and the papers' tables in miniature", lambda found: ""),
    ("[Planned grids](evidence/grids.md)", "which steps to take, planned", lambda found: grids(found)),
    ("[The worst sample](evidence/worst.md)", "a planned schedule beside the best peer at about 14 of 50 steps", lambda found: worst(found)),
    ("[Other libraries' caches](evidence/peers.md)", "those of cache-dit and diffusers", lambda found: peers(found)),
    ("[The field's methods](evidence/methods.md)", "the policies of `foreseer-methods` on one footing", lambda found: ""),
    ("[What forecasting costs](evidence/cost.md)", "on a CPU, and on a GPU in published shapes", lambda found: ""),
)
"""Of each page its link, what it is, and what its results come to."""


def links(found: Mapping[str, Results]) -> str:
    """Return the list of the pages."""
    every = ((link, what, come_to(found)) for link, what, come_to in LINKS)
    return "\n".join(f"- {link}: {what}{f': {said}' if said else ''}." for link, what, said in every)


def grids(found: Mapping[str, Results]) -> str:
    """At how many numbers of evaluations a planned grid is nearer to the converged solution than a solver's own."""
    gains = [one for results in of_kind(found, "grid").values() for one in gains_of_grids(results)]
    ahead, behind = (sum(one.clear and sign * one.mean > 0 for one in gains) for sign in (1, -1))
    if not gains:
        return ""
    return f"nearer to the converged solution than the same solver's own spacing, beyond noise, at {ahead} of {len(gains)} places, and farther at {behind}"


def gains_of_grids(results: Results) -> Iterator[Gain]:
    """Yield the gain of each planned grid over the same solver's own spacing at as many evaluations."""
    fewer = {(lane.solver, lane.num_steps): lane for lane in results.lanes if lane.kind == "fewer" and lane.has("truth")}
    for (solver, count), lane in fewer.items():
        kind, planned, _ = solver.partition(":timesteps=")
        if planned and (own := fewer.get((kind, count))) and (over := gain(results, lane, own, figure="truth")) is not None:
            yield over


def worst(found: Mapping[str, Results]) -> str:
    """How far a policy's worst sample is above that of the peer whose worst sample is best."""
    return "; ".join(f"on {model_of(results.family)} {said}" for results in of_kind(found, "worst").values() if (said := over_peers(results)))


def over_peers(results: Results) -> str:
    """Hold the policy whose worst sample is best against the peer whose worst sample is; empty where one is missing."""
    ours, theirs = (_best_in_the_worst(results, kind) for kind in ("policy", "peer"))
    over = ours and theirs and gain(results, ours, theirs)
    if not ours or not over:
        return ""
    noise = "" if over.clear else ", within noise"
    return f"{over.worst:+.1f} dB in the worst sample and {over.mean:+.1f} in the mean{noise} (`{ours.name.replace('docs/benchmarks/plans/', '')}`)"


def _best_in_the_worst(results: Results, kind: str) -> LaneResult | None:
    able = [lane for lane in results.lanes if lane.kind == kind and lane.has("psnr") and not lane.error]
    return max(able, key=lambda lane: (worst_of(lane, "psnr"), mean_of(lane, "psnr")), default=None)


def peers(found: Mapping[str, Results]) -> str:
    """At how many points of the peers' fronts a built-in policy is as good."""
    counts = [reached_of(results) for results in of_kind(found, "peers").values()]
    every, of = (sum(numbers) for numbers in zip(*counts, strict=True)) if counts else (0, 0)
    return f"at {every} of {of} points of their fronts a built-in policy that computes no more is at least as close to full computation" if of else ""
