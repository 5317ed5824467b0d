"""Gates, and predictors that need tensors, on a recorded run: the real policy through an ordinary session,
open loop, with the truth of every draft. The host is what was recorded, one row for each sample: the tensors
themselves, or vectors with the same inner products.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreseer.backbone import Pass, live_blocks
from foreseer.errors import OptionError
from foreseer.plain_walk import look_up
from foreseer.plugins import policy_hooks
from foreseer.registry import PolicySpec, parse_policy, signature_of
from foreseer.report import Report
from foreseer.session import Session
from foreseer.types import OUTPUT, PLACES, Evidence, Probe, Site
from foreseer.workbench.judgements import Entry, judgements
from foreseer.workbench.ledger import Ledger
from foreseer.workbench.predictors import OWN, Predictor, predictor_named
from foreseer.workbench.replay import Score, with_promise
from foreseer.workbench.schedules import Schedule, ScheduleAt, run_of, schedule_from
from foreseer.workbench.trace import Trace, site_named

__all__ = ["RecordedHost", "pair_spec", "replay_gate", "replay_pair", "rotated", "stored_features", "vectors_of", "with_predictor"]

Features = Mapping[Site, NDArray[Any]]
"""``site -> (S, T, ...)``."""

ROUNDING = 0.02
"""Tensors kept in half precision have the norms of those that were recorded to this part."""


class RecordedHost:
    """A denoiser given by what full computation recorded; ``inputs`` is the step's index. Satisfies
    `foreseer.backbone.Backbone`.

    Sites that were not recorded are never shown to anybody. What runs behind a forecast is what full
    computation recorded there: open loop. The output is of no meaning, a zero for each row.

    Args:
        features: ``site -> (S, T, ...)``; a sample's rows are part of its feature.
        depth: Number of blocks, L.
        who: The policy, for messages.
    """

    places = PLACES

    def __init__(self, features: Features, *, depth: int, who: str = "policy") -> None:
        self._features, self._who, self.depth = features, who, depth
        self.sites = tuple(Site(block) for block in range(depth))

    def rows(self, inputs: int) -> int:
        """Samples, S."""
        return len(next(iter(self._features.values())))

    def require(self, sites: Collection[Site]) -> None:
        """Refuse a policy that forecasts or compares sites that were not recorded. Raises `OptionError`."""
        missing = sorted(str(site) for site in sites if site not in self._features)
        if any(site in PLACES for site in sites):
            raise OptionError(
                f"{self._who!r} looks at {', '.join(missing)}: what lies in front of block 0 is not recorded; run it with the model: foreseer compare"
            )
        if missing:
            there = ", ".join(map(str, self._features))
            raise OptionError(f"{self._who!r} needs features of {', '.join(missing)}, which were not recorded; there are {there}: record with --sites")

    def forward(
        self,
        inputs: int,
        *,
        rows: Sequence[int] | None = None,
        substitute: Mapping[Site, Tensor],
        probe: Probe | None = None,
        judge: Callable[[Evidence], bool] | None = None,
        record: Collection[Site] = (),
        see: Collection[Site] = (),
    ) -> Pass:
        """See `foreseer.backbone.Backbone.forward`. Raises `OptionError` for a probe on a draft: what a block
        makes of a forecast was not recorded.
        """
        which = list(range(self.rows(inputs)) if rows is None else rows)

        def shown(site: Site) -> Tensor:
            values = self._features[site][which, inputs] if site in self._features else np.zeros((len(which), 1))
            return torch.from_numpy(np.ascontiguousarray(values))

        forecasting, looked = bool(substitute), -1
        if probe is not None and judge is not None:
            if probe.on == "draft":
                raise OptionError(
                    f"{self._who!r} computes block {probe.block} on its forecast input, which needs the model: what comes of it was not recorded. "
                    f"Run it with the observer `ledger`: foreseer compare --policies {self._who} --observers ledger:path=ledger.json"
                )
            self.require([probe.site])
            looked = probe.block
            forecasting = judge(Evidence(probe.site, shown(probe.site), substitute.get(probe.site))) and forecasting
        drafts = {site.end: site for site in substitute} if forecasting else {}
        live = live_blocks(self.depth, drafts.values(), probe)
        real = {Site(block) for block in range(self.depth) if live[block] and (block <= looked or Site(block) not in drafts)}
        for end, site in drafts.items():
            if end == OUTPUT or (live[end.block] and end not in real):
                look_up(substitute, site, None)
        real |= {OUTPUT} - drafts.keys()
        found = {site: shown(site) for site in {*record, *see} if site.end in real}
        features, seen = ({site: found[site] for site in asked if site in found} for asked in (record, see))
        return Pass(np.zeros((len(which), 1)), features, (len(real) - (OUTPUT in real)) * len(which), seen=seen)

    def merge(self, output: NDArray[Any], rows: Sequence[int], part: Any) -> NDArray[Any]:
        """Return the output: it is of no meaning."""
        return output


def vectors_of(trace: Trace, stream: str) -> dict[Site, NDArray[np.float64]]:
    """Return ``(S, T, T)`` for each recorded site: vectors that have the inner products of the features."""
    return {site: trace.embedding(site, stream) for site in trace.sites}


def rotated(features: Mapping[Site, NDArray[np.float64]], *, seed: int = 0) -> dict[Site, NDArray[np.float64]]:
    """Turn all vectors of a site by one random rotation, another for each site: lengths and angles stay, sums
    of absolute values do not.
    """
    random = np.random.default_rng(seed)
    return {site: values @ np.linalg.qr(random.normal(size=(values.shape[-1],) * 2))[0] for site, values in features.items()}


def stored_features(trace: Trace, beside: Path) -> dict[Site, NDArray[Any]] | None:
    """Return the tensors that were kept with a trace, ``site -> (S, T, ...)`` float32 of its first stream;
    None where they were not.

    Args:
        trace: The recording.
        beside: Its file.

    Raises:
        OptionError: The trace names a folder that is not there, is damaged, or holds the tensors of another
            recording.
    """
    if not trace.features:
        return None
    from foreseer.workbench.features_store import FeatureStore

    store = FeatureStore.open(beside.parent / trace.features)
    stream = trace.streams[0]
    found = {site: np.asarray(store.read(site, stream), dtype=np.float32) for site in trace.sites}
    for site, features in found.items():
        norms, wanted = np.linalg.norm(features.reshape(*features.shape[:2], -1), axis=2), trace.norms(site, stream)
        if norms.shape != wanted.shape or not np.allclose(norms, wanted, rtol=ROUNDING):
            raise OptionError(f"the tensors in {str(beside.parent / trace.features)!r} are not those of this trace: at {site} their norms differ; record again")
    return found


APART = 1e-3
"""Errors on vectors and on rotated vectors differ by rounding alone, far below this relative difference,
where a gate measures lengths and angles only.
"""


def replay_gate(trace: Trace, gate: str | PolicySpec, predictor: str | PolicySpec = OWN, *, features: Features | None = None) -> Score:
    """Run a gate on a recording.

    On inner products alone the run is made twice: on vectors that have the inner products of the features,
    and on the same vectors rotated. A gate that measures lengths and angles (`relative_l2`, `cosine`) says
    the same both times; one that does not looks at single entries (`relative_l1`), and is refused.

    Args:
        trace: The recording. Of several streams the first decides, as in a pipeline, and is what is compared;
            what is promised for the final latent takes the others to be off by the same share of their norms,
            and the score's note says so.
        gate: An installed policy that judges features, with its options.
        predictor: Another predictor for it, or `foreseer.workbench.predictors.OWN`.
        features: ``site -> (S, T, ...)`` the tensors, if they were kept; None for inner products alone.

    Returns:
        Its score at the site that it forecasts last, with what it judged.

    Raises:
        PluginError: A name is wrong.
        OptionError: An option is wrong; the gate probes a draft, compares or forecasts a site that was not
            recorded, or needs tensors that are not there.
    """
    known = predictor_named(predictor)
    asked = parse_policy(gate) if isinstance(gate, str) else gate
    name, spec = str(asked), with_predictor(asked, known)
    if not policy_hooks(spec.look() or spec())["before_step"]:
        raise OptionError(f"gate={name!r} forecasts nothing; write a gate, such as cg_taylor:threshold=0.05")
    if features is not None:
        return _score(trace, name, known, *_run(trace, spec, features, name))
    vectors = vectors_of(trace, trace.streams[0])
    report, entries = _run(trace, spec, vectors, name)
    again, _ = _run(trace, spec, rotated(vectors), name)
    if not _same_evidence(report, again):
        raise OptionError(
            f"gate={name!r} needs the tensors: its errors change where the vectors are rotated, so that it looks at single entries (as relative_l1 does) "
            "and not at lengths and angles alone. Record with --features to replay it; only gates that measure with relative_l2 or cosine go without"
        )
    return _score(trace, name, known, report, entries)


def replay_pair(trace: Trace, predictor: str | PolicySpec, schedule: str | PolicySpec, site: Site, *, features: Features | None = None) -> Score:
    """Run a predictor under a static schedule through a session, on the first stream: the way for predictors
    that are not linear. `foreseer.workbench.replay.Replay` is faster.

    ``features`` are the tensors, ``site -> (S, T, ...)``, or None for vectors that have their inner products,
    which only linear predictors may be given.

    Raises:
        PluginError, OptionError: A name or an option is wrong, or the site was not recorded.
    """
    chosen, known = schedule_from(schedule), predictor_named(predictor)
    spec = pair_spec(chosen, known, site)
    report, entries = _run(trace, spec, vectors_of(trace, trace.streams[0]) if features is None else features, chosen.name)
    return _score(trace, chosen.name, known, report, entries, gate=False)


def pair_spec(schedule: Schedule, predictor: Predictor, site: Site) -> PolicySpec:
    """Return a policy that forecasts one site by a predictor, at the steps of a schedule.

    Raises:
        OptionError: The schedule has no predictor of its own, and none was named.
    """
    own = schedule.predictor() if predictor.spec is None else None
    if predictor.spec is None and own is None:
        raise OptionError(f"schedule={schedule.name!r} brings no predictor of its own; name one with --predictors")

    def plugins() -> tuple[object, ...]:
        return ScheduleAt(schedule, site), schedule.predictor() if predictor.spec is None else predictor.built(schedule.warmup_steps)

    return PolicySpec(schedule.name if predictor.name == OWN else f"{schedule.name} with {predictor.name}", plugins)


def with_predictor(spec: PolicySpec, predictor: Predictor) -> PolicySpec:
    """Return a policy with another predictor in the place of its own. Raises `OptionError` where it has no
    option for that, or was given it already.
    """
    if predictor.spec is None:
        return spec
    if "predictor" not in signature_of(spec.factory).parameters:
        raise OptionError(f"gate={str(spec)!r} has no option 'predictor'; write --predictors own to run it with what it brings")
    if "predictor" in spec.options:
        raise OptionError(f"gate={str(spec)!r} names a predictor already; write that one in --predictors, or --predictors own")
    factory: Callable[..., Any] = predictor.factory()
    return PolicySpec(spec.name, spec.factory, {**spec.options, "predictor": factory})


def _run(trace: Trace, spec: PolicySpec, features: Features, name: str) -> tuple[Report, tuple[Entry, ...]]:
    """Run a policy on recorded features, with the truth of every forecast."""
    host, watch = RecordedHost(features, depth=trace.depth, who=name), Ledger()
    session = Session(host, spec, run_of(trace, rows=trace.samples), observers=(watch,))
    for index in range(trace.num_steps):
        session.evaluate(index)
    host.require(session.tenure.sites | session.tenure.sightings.sites)  # afterwards: of a gate that needs the model it would be no help to record more
    report = session.finish()
    dropped = [warning for warning in report.warnings if warning.startswith("observer")]
    assert not dropped, dropped
    return report, watch.entries


def _same_evidence(report: Report, again: Report) -> bool:
    """Whether two runs saw the same errors, as long as they went the same way. An error may lie so near a
    threshold that rounding decides.
    """
    for one, other in zip(report.outcomes, again.outcomes, strict=True):
        if not np.allclose(one.error, other.error, rtol=APART, atol=1e-9, equal_nan=True):
            return False
        if one.computed != other.computed:
            break
    return True


def _score(trace: Trace, name: str, predictor: Predictor, report: Report, entries: Sequence[Entry], *, gate: bool = True) -> Score:
    computed, error = np.array(report.computed.T), np.zeros((trace.samples, trace.num_steps))
    for entry in entries:
        error[:, entry.step] = np.where(computed[:, entry.step], 0.0, entry.site_error)
    site = site_named(entries[-1].site) if entries else Site(trace.depth - 1)
    judged = judgements(entries) if gate else None
    others = [f"of {len(trace.streams)} streams the first is compared; the promise takes the others to be off by the same share"]
    notes = " ".join([*report.warnings, *(others if len(trace.streams) > 1 else [])])
    return with_promise(trace, Score(predictor=predictor.name, policy=name, gate=gate, site=site, computed=computed, error=error, judged=judged, note=notes))
