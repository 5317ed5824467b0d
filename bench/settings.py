"""The settings of a benchmark: a small TOML file, checked before anything is loaded.

    workload = "dit"                 # or a pipeline of yours, with the keys of foreseer.bench.source.Source
    samples = 1000
    batch = 50                       # or several: [1, 4, 16]

    [[lanes]]
    policy = "taylorseer:interval=4"
    grid = { max_order = [0, 1, 2] } # every combination is a lane

    [[lanes]]
    preset = "dit_digits_3x"         # or the file of one, beside this file

    [[lanes]]                        # the same policies on other solvers
    policy = "cg_taylor:threshold=0.06"
    solver = ["dpmpp_2m", "unipc:spacing=karras"]
    steps = [20, 25]

    [[peers]]
    peer = "dbcache"
    options = { first_blocks = 1 }
    grid = { threshold = [0.1, 0.2] }

    [[published]]                    # what the paper printed, to be shown beside
    method = "TaylorSeer N=4 O=4"
    source = "arXiv 2503.06923"
    speedup = 3.57

Full computation is always there, and for each lane plain sampling with as many steps as it computed, by the
workload's own solver and by those of ``solvers = ["dpmpp_2m", ...]``. ``reference = "dpmpp_2m:spacing=own"``
adds the PSNR to the converged solution.
"""

from __future__ import annotations

import hashlib
import itertools
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs.validators import optional

from foreseer.bench.fields import check_guidance, nearest, refuse_unknown, whole
from foreseer.bench.lanes import Solved
from foreseer.bench.measures import check_measures, names
from foreseer.bench.peers import PEERS, PeerSpec
from foreseer.bench.prompts import Prompts
from foreseer.bench.solvers import Solver, solver_from, solvers_from
from foreseer.bench.source import Drawing, Source, named, source_from
from foreseer.errors import OptionError, PluginError
from foreseer.presets import find_preset
from foreseer.reading import Written
from foreseer.registry import PolicySpec, parse_policy, policy
from foreseer.schedule_plan import SchedulePlan

__all__ = ["BenchSettings", "read_settings"]


def _batches(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _check_batches(settings: object, attribute: attrs.Attribute[Any], value: tuple[Any, ...]) -> None:
    if not value or len(set(value)) < len(value) or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in value):
        raise OptionError(f"batch={list(value)!r} is out of range; write a whole number >= 1, or a list of different ones")


def _counts(value: Any) -> tuple[int, ...]:
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    if wrong := [one for one in given if not isinstance(one, int) or isinstance(one, bool) or not 1 <= one <= 1000]:
        raise OptionError(f"counts={wrong[0]!r} is no number of evaluations; write whole numbers from 1 to 1000, such as counts = [8, 14, 20]")
    return tuple(sorted(set(given)))


def _check_text(settings: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise OptionError(f"{attribute.name}={value!r} is no text; write {attribute.name} = '{value}'")


def _one_of(*choices: str) -> Any:
    def check(settings: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in choices:
            raise OptionError(f"{attribute.name}={value!r} is unknown; write {' or '.join(map(repr, choices))}")

    return check


@attrs.frozen(kw_only=True)
class BenchSettings:
    """What a benchmark does.

    Attributes:
        workload: Where samples come from; a text is the name of a workload. In a file the keys of
            `foreseer.bench.source.Source` stand among the others.
        about: A sentence or two for readers.
        steps: Denoising steps of full computation; None for the workload's own number.
        samples: How many samples each lane draws.
        batch: Samples that are drawn together. With several, every lane is measured at each.
        seed: Of the noise. Sample i begins with the same noise in every lane.
        guidance: Weight of the guidance; None for the workload's own.
        threads: Threads of the CPU.
        solvers: Other solvers to draw plainly with, as `foreseer.bench.solvers` writes them: beside each lane
            with as many evaluations as it computes, and at ``counts``. With them "fewer steps" is the best of
            them and of the workload's own at that number of evaluations.
        counts: Numbers of evaluations at which every solver, the workload's own among them, is drawn besides.
        reference: Solver of the converged reference, which is drawn once with ``reference_steps`` and kept;
            empty for none. Then every lane has a PSNR to it.
        reference_steps: Steps of the reference; half as many prove that it has converged.
        repeats: How often each lane is timed, each time next to full computation, spread over its batches; 0
            times nothing.
        timed: ``"pairs"``: runs of their own, each next to full computation, as ``repeats`` says.
            ``"draws"``: the one draw of each batch, with that of full computation beside it, several times as
            fast and less certain; FLOPs and peak memory are then not counted.
        together: Which samples are drawn together: ``"as drawn"``, in the order of their numbers, or
            ``"mixed"``, so that each batch holds easy and hard ones by how far an even schedule is off on
            them.
        measures: Quality measures beside PSNR and SSIM: names of the group ``foreseer.measures``, with options
            as policies have them. They change no other number, so that the same results may be gone on with
            under others.
        lanes: Policies with their options, also on other solvers.
        peers: Other libraries' caches, see `foreseer.bench.peers`.
        published: What papers printed: for each row ``method``, ``source`` and any numbers.

    Raises:
        OptionError: A value is out of range; the message says what to write.
    """

    workload: Drawing = attrs.field(converter=source_from)
    about: str = attrs.field(default="", validator=_check_text)
    steps: int | None = attrs.field(default=None, validator=optional(whole(1, 1000)))
    samples: int = attrs.field(default=32, validator=whole(1))
    batch: tuple[int, ...] = attrs.field(default=(16,), converter=_batches, validator=_check_batches)
    seed: int = attrs.field(default=0, validator=whole(0))
    guidance: float | None = attrs.field(default=None, validator=optional(check_guidance))
    threads: int = attrs.field(default=1, validator=whole(1, 1024))
    repeats: int = attrs.field(default=3, validator=whole(0, 1000))
    timed: str = attrs.field(default="pairs", validator=_one_of("pairs", "draws"))
    together: str = attrs.field(default="as drawn", validator=_one_of("as drawn", "mixed"))
    measures: tuple[str, ...] = attrs.field(default=(), converter=names, validator=check_measures)
    solvers: tuple[Solver, ...] = attrs.field(default=(), converter=solvers_from)
    counts: tuple[int, ...] = attrs.field(default=(), converter=_counts)
    reference: Solver | None = attrs.field(default=None, converter=solver_from)
    reference_steps: int = attrs.field(default=400, validator=whole(2, 100_000))
    lanes: tuple[PolicySpec | Solved, ...] = ()
    peers: tuple[PeerSpec, ...] = ()
    published: tuple[Mapping[str, Any], ...] = ()

    def __attrs_post_init__(self) -> None:
        peers = {str(peer) for peer in self.peers}
        if both := [str(lane) for lane in self.lanes if str(lane) in peers]:
            raise OptionError(f"lanes and peers both have {both[0]!r}, which would share a line; leave one out, or write the policy as distribution:name")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with policies and peers as one would write them on the command line. What has no
        influence on a number is left out.
        """
        # results of before there was a choice of these say nothing of it
        unsaid: list[tuple[str, Any]] = [("timed", "pairs"), ("together", "as drawn"), ("solvers", ()), ("counts", ()), ("reference", None)]
        unsaid += [("reference_steps", self.reference_steps)] if self.reference is None else []
        fields = ((name, getattr(self, name)) for name in attrs.fields_dict(BenchSettings))
        own = {n: _written(value) for n, value in fields if n not in ("about", "published", "measures", "workload") and (n, value) not in unsaid}
        alone = (lane.policy if isinstance(lane, Solved) else lane for lane in self.lanes)
        presets = {str(lane): lane.preset.name for lane in alone if lane.preset is not None}
        return named(self.workload) | own | ({"presets": presets} if presets else {}) | ({"plans": plans} if (plans := self._plans()) else {})

    def _plans(self) -> dict[str, str]:
        """A hash of each plan whose file is named: another file of that name gives other numbers."""
        lanes = [(lane.policy, lane.solver) if isinstance(lane, Solved) else (lane, None) for lane in self.lanes]
        options = [option for policy, _ in lanes for option in policy.options.values()]
        solvers = [solver.timesteps for solver in (*(solver for _, solver in lanes), *self.solvers, self.reference) if solver is not None]
        plans = {str(one): one.value for one in (*options, *solvers) if isinstance(one, Written) and isinstance(one.value, SchedulePlan)}
        return {name: hashlib.sha256(repr(plan).encode()).hexdigest()[:16] for name, plan in sorted(plans.items())}


def _written(value: Any) -> Any:
    """Numbers as they are, and what has options as one writes it."""
    if isinstance(value, tuple):
        return list(map(_written, value))
    return str(value) if isinstance(value, (PolicySpec, PeerSpec, Solved, Solver)) else value


def read_settings(path: Path) -> BenchSettings:
    """Read a settings file.

    Raises:
        OptionError: The file cannot be read, a key is unknown (the message names the nearest), or a value is
            out of range.
        PluginError: A policy is not installed.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{str(path)!r} cannot be read: {error.strerror}; write the name of a settings file, such as docs/benchmarks/speca.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{str(path)!r} is not TOML: {error}") from error
    try:
        return _settings(content, path.parent)
    except (OptionError, PluginError) as error:
        raise type(error)(f"{path.name}: {error}") from error


def _settings(content: Mapping[str, Any], folder: Path) -> BenchSettings:
    sources = attrs.fields_dict(Source)
    refuse_unknown(content, [*attrs.fields_dict(BenchSettings), *sources], "key of the settings")
    if not any(isinstance(content.get(key), str) for key in ("workload", "pipeline")):
        raise OptionError("workload is missing; write workload = 'dit', 'fashion', 'flux' or 'wan', or pipeline = 'FOLDER' or 'file.py:function'")
    source = {key: value for key, value in content.items() if key in sources}
    for key in ("pipeline", "prompts"):
        if isinstance(source.get(key), str):
            source[key] = _beside(folder, source[key])
    lanes = [spec for table in _tables(content, "lanes") for spec in _lanes(table, folder)]
    peers = [spec for table in _tables(content, "peers") for spec in _peers(table)]
    published = _tables(content, "published")
    for row in published:
        if not all(isinstance(row.get(key), str) for key in ("method", "source")):
            raise OptionError(f"published: {row!r} has no method or no source; write method = '...', source = '...' and the numbers")
    given = {key: value for key, value in content.items() if key not in ("lanes", "peers", "published", *sources)}
    drawing = Source(**source)
    if drawing.pipeline is not None:  # each prompt once, and one at a time
        given = {"batch": 1, **({"samples": len(drawing.prompts)} if isinstance(drawing.prompts, Prompts) else {}), **given}
    return BenchSettings(workload=drawing, **given, lanes=_once(lanes), peers=_once(peers), published=tuple(published))


def _beside(folder: Path, text: str) -> str:
    """Return a path as seen from here, where there is such a file or folder beside the settings."""
    place, colon, function = text.rpartition(":") if ".py:" in text else (text, "", "")
    return f"{folder / place}{colon}{function}" if (folder / place).exists() else text


def _tables(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = content.get(key, [])
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        raise OptionError(f"{key}={found!r} is not a list of tables; write [[{key}]] above each")
    return found


def _lanes(table: Mapping[str, Any], folder: Path) -> list[PolicySpec | Solved]:
    refuse_unknown(table, ("policy", "grid", "preset", "solver", "steps"), "key of a lane")
    on = {key: table[key] if isinstance(table[key], list) else [table[key]] for key in ("solver", "steps") if key in table}
    if not on:
        return list(_policies(table, folder))
    if len(on) < 2:
        raise OptionError(f"lanes: {dict(table)!r} has {next(iter(on))} alone; write solver = 'dpmpp_2m' and steps = 25 together, each one or a list")
    alone = _policies({key: value for key, value in table.items() if key not in on}, folder)
    solvers = [Solver.read(str(text)) for text in on["solver"]]
    if wrong := [count for count in on["steps"] if not isinstance(count, int) or isinstance(count, bool) or count < 2]:
        raise OptionError(f"steps={wrong[0]!r} of a lane is out of range; write a whole number >= 2, or a list of them")
    return [Solved(spec, solver, count) for spec in alone for solver in solvers for count in on["steps"]]


def _policies(table: Mapping[str, Any], folder: Path) -> list[PolicySpec]:
    if "preset" in table:
        if len(table) > 1:
            raise OptionError(f"lanes: {dict(table)!r} has a preset, which brings its policy and options; write preset = {table['preset']!r} alone")
        return [policy(find_preset(table["preset"], folder=folder))]
    if not isinstance(table.get("policy"), str):
        raise OptionError(f"lanes: {dict(table)!r} names no policy; write policy = 'speca:threshold=0.1', or preset = '...'")
    spec = parse_policy(table["policy"])
    return [policy(spec, **chosen) for chosen in _grid(table)]


def _peers(table: Mapping[str, Any]) -> list[PeerSpec]:
    refuse_unknown(table, ("peer", "options", "grid"), "key of a peer")
    name, options = table.get("peer"), table.get("options", {})
    if not isinstance(name, str) or name not in PEERS:
        raise OptionError(f"peer={name!r} is unknown; {nearest(str(name), PEERS)}write one of {', '.join(PEERS)}")
    if not isinstance(options, dict):
        raise OptionError(f"options={options!r} of peer {name!r} is not a table; write options = {{ threshold = 0.1 }}")
    return [PeerSpec(name, {**options, **chosen}) for chosen in _grid(table)]


def _grid(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    grid = table.get("grid", {})
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise OptionError(f"grid={grid!r} is not a table of lists; write grid = {{ threshold = [0.05, 0.1] }}")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _once(specs: Iterable[Any]) -> tuple[Any, ...]:
    return tuple({str(spec): spec for spec in specs}.values())
