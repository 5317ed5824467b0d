"""A walk over blocks that are functions of one stream: what hosts without a model have in common."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from foreseer.backbone import Drafted, Pass, live_blocks
from foreseer.types import OUTPUT, STREAM, Evidence, Probe, Site

__all__ = ["look_up", "plain_walk"]


def look_up(substitute: Mapping[Site, Tensor], site: Site, live: Tensor | None, features: Mapping[Site, Tensor] | None = None) -> Tensor:
    """Return what stands in for a place where ``live`` arrives, behind those whose ``features`` were computed:
    at a residual, the live stream and its draft.
    """
    if isinstance(substitute, Drafted):
        substitute.reached(site, lambda: live, features)
    draft = substitute[site]
    return draft if site.since is None or live is None else live + draft


def plain_walk(
    feature: Callable[[Site], Tensor],
    *,
    depth: int,
    parts: Sequence[str] = (),
    rows: int,
    places: Mapping[Site, Tensor],
    substitute: Mapping[Site, Tensor],
    probe: Probe | None,
    judge: Callable[[Evidence], bool] | None,
    record: Collection[Site],
    see: Collection[Site],
) -> Pass:
    """Evaluate blocks once: see `foreseer.backbone.Backbone.forward`, also for what is not described here.

    Args:
        feature: What a part computes, or a block where there are no parts; ``(R, ...)``, never written to.
        depth: How many blocks there are, L.
        parts: Names of each block's parts. The stream behind a block is then the sum of its parts and of all
            before it, `STREAM` included.
        rows: Rows of the evaluation.
        places: What lies in front of block 0, `STREAM` among it where residuals are wanted.
        substitute: See there.
        probe: See there.
        judge: See there.
        record: See there.
        see: See there.

    Returns:
        The pass; its output is the last block's stream.
    """

    def assemble(block: int, stream: Tensor | None, given: Mapping[Site, Tensor]) -> Tensor:
        """Add a block's parts to the stream in front of it."""
        made = [given[Site(block, part)] for part in parts]
        if stream is None:
            stream, *made = made
        return functools.reduce(torch.add, made, stream) if made else stream.clone()

    whole = next((site for site in substitute if site.end == OUTPUT), None)
    residuals = {site.block: site for site in substitute if site.since is not None and site != whole}
    live, forecasting, spent = live_blocks(depth, substitute, probe), bool(substitute), 0
    streams, features = dict(places), dict[Site, Tensor]()
    seen = {site: places[site] for site in see if site in places}

    def judged(found: Tensor, forecast: Tensor | None) -> bool:
        assert probe is not None
        assert judge is not None
        others = {site: Evidence(site, tensor, None) for site, tensor in seen.items() if site != probe.site}
        return judge(Evidence(probe.site, found, forecast, others=others))

    def standing_in(site: Site) -> Tensor:
        found = {each: features[each] for each in record if each in features}
        return look_up(substitute, site, None if site.since is None else streams[site.start], found)

    if probe is not None and probe.block < 0:
        forecasting = judged(places[probe.site], None) and forecasting
    if forecasting and whole is not None and (probe is None or probe.block < 0):
        return Pass(standing_in(whole), {}, 0, seen=seen)
    stream, pure = streams.get(STREAM), True
    for block in range(depth):
        end, here = Site(block), probe is not None and probe.block == block
        real = not forecasting or (probe is not None and probe.on == "input" and block <= probe.block)
        if not real and not live[block]:
            pure = False
            continue
        before, draft, site = stream, None, residuals.get(block, end)
        if not real:
            whole_block = parts and all(Site(block, part) in substitute for part in parts)
            draft = standing_in(site) if site in substitute else assemble(block, before, substitute) if whole_block else None
        if draft is None or here:
            spent += rows
            replaced = {} if real or here else substitute
            computed = {each: feature(each) for each in ([Site(block, part) for part in parts] or [end]) if each not in replaced}
            stream = assemble(block, before, collections.ChainMap(computed, replaced)) if parts else computed[end]  # type: ignore[arg-type]
            added = {each: stream - streams[each.start] for each in {*record, *see} if each.since is not None and each.end == end and each.start in streams}
            features |= {**computed, end: stream, **added}
            if pure:  # what stands behind a forecast is not what computing gives
                seen |= {each: features[each] for each in see if each in (end, *added)}
        if here and probe is not None and stream is not None:
            shown = draft if draft is not None else substitute.get(probe.site)
            go_on = judged(stream if probe.site.since is None else features[probe.site], shown)
            if not go_on and probe.on == "draft":
                return Pass(None, {}, spent, seen=seen)
            forecasting = forecasting and go_on
            if forecasting and whole is not None:
                break
        if draft is not None and (probe is None or not here or probe.use == "forecast"):
            stream, pure = draft, False
        if stream is not None:
            streams[end] = stream
    output = standing_in(whole) if forecasting and whole is not None else stream
    if output is not None:
        features[OUTPUT] = output
        features |= {each: output - streams[each.start] for each in record if each.since is not None and each.end == OUTPUT}
    return Pass(output, {site: features[site] for site in record if site in features}, spent, seen=seen)
