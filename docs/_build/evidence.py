"""Writes docs/evidence.md from the committed results: every figure in it is read from a file, and each section says which command made that file.

    python docs/_build/evidence.py            write docs/evidence.md
    python docs/_build/evidence.py --check    fail if it would change
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from evidence_planned import planned_section

from foreseer.bench.claims import CLAIMED_COST, verdicts
from foreseer.bench.front import ANOTHER_PICTURE, HALF_A_STEP, Point, points_of_peers, steps_of
from foreseer.zoo.judge import FRECHET_MINIMUM_SAMPLES
from foreseer.bench.results import LaneResult, Results
from foreseer.bench.sentences import summaries
from foreseer.bench.summary import lines_of, mean_of, worst_of
from foreseer.bench.tables import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "evidence.md"
SECTIONS = {
    "taylorseer": "TaylorSeer's table, in miniature",
    "taylorseer_flux": "TaylorSeer's FLUX table, in miniature",
    "cg_taylor": "CG-Taylor's table, in miniature",
    "speca": "SpeCa's table, in miniature",
    "rows": "Decisions per row and per batch",
    "peers_dit": "Peers on the DiT",
    "peers_flux": "Peers on the FLUX-shaped model",
    "peers_wan": "Peers on the Wan-shaped model",
}
"""Folder of results, which is the name of its settings file, and heading. Two may share a settings file's stem only if they are one."""

HEAD = """# Evidence

What these methods do on three small trained models, measured in one harness: the same noises and conditions in every lane, paired sample by sample, with plain
sampling of fewer steps beside everything. This page is written from result files by `python docs/_build/evidence.py`; no number in it was typed.

The models are miniatures, and say little about how a policy fares on a large model. What can be relied on is that every method met the same noises. Thresholds
do not carry over. Times are of two CPU cores of a machine that others shared, so that block-rows and FLOPs say more than seconds; each time is a ratio to full
computation run right before or after it. [On a GPU](#gpu) there are times of large models with random weights, and no quality.

PSNR is to full computation's sample, mean / worst, in dB. "Peak" is the most bytes of tensors alive at once. "Held" is what recorded features occupy; of peers
what was still alive when a batch was drawn, which is nothing where they let go with the last step.
"""

INTRODUCTION = {
    "rows": "At batch 1 both are one and the same, so that its ratios show the noise. Above 1, deciding per row costs more at the same quality. Each batch holds easy and hard "
    "samples; still they are digits of one model, and more alike than prompts are.",
    "taylorseer": "Forecasting gains in the mean and loses in the worst sample: a few samples turn in the first steps after the warm-up, which a line through its two steps misses. "
    "See [taylorseer](policies/taylorseer.md#when-to-use-it).",
    "cg_taylor": "The gate gains where many steps are computed and loses where few are: its block runs in every step, and is one of 12 here, one of 57 in the paper's FLUX. Each "
    "threshold is there twice, deciding per sample and per batch.",
    "speca": "Why the worst sample stays behind whatever the threshold, and what helps: [speca](policies/speca.md#when-to-use-it).",
}


def main() -> None:
    text = page()
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == text else f"{PAGE} is not what the results say: python docs/_build/evidence.py")
    PAGE.write_text(text, encoding="utf-8")


def page() -> str:
    """The whole page."""
    found = {name: Results.load(RESULTS / name) for name in SECTIONS if (RESULTS / name).is_dir()}
    parts = [HEAD, *claims_over_all(found)]
    parts += [*planned_section(RESULTS), *cost_section(), *gpu_section()]
    for name, results in found.items():
        parts += section(name, results)
    return "\n".join(parts).rstrip() + "\n"


def claims_over_all(found: dict[str, Results]) -> Iterator[str]:
    """Every verdict, and whether peers are reached, on top."""
    yield "## The papers' claims\n"
    yield (
        "A claim holds where every comparison that the results allow is for it beyond noise: three standard errors of the paired differences, more where samples are few (Student's t). It fails where some are "
        "against it and none for it, is mixed where some are for it and others not, and open where none is beyond noise. Verdicts are about the mean; the worst sample stands beside them.\n"
    )
    yield "| claim | model | batch | verdict | what was found |"
    yield "|---|---|---|---|---|"
    for name, results in found.items():
        if name.startswith("peers"):
            continue
        costs = [v for v in verdicts(results) if v.claim == "verification_cost"]
        for verdict in (v for v in verdicts(results) if v.claim != "verification_cost"):
            yield f"| {verdict.paper} | [{results.family}](#{name}) | {verdict.batch} | **{verdict.finding}** | {verdict.sentence} |"
        if costs:
            shares = sorted(v.numbers["share_of_seconds"] for v in costs)
            block = costs[0].numbers["share_of_blocks"]
            low, high = f"{100 * shares[0]:.1f}", f"{100 * shares[-1]:.1f}"
            sentence = f"{low} to {high} % of a full step by the clock; one block of {results.depth} is {100 * block:.1f} %{': with so few blocks it cannot hold' if block > CLAIMED_COST[1] else ''}."
            yield f"| {costs[0].paper} | [{results.family}](#{name}) | {costs[0].batch} | **{costs[0].finding}** | {sentence} |"
    yield ""
    for name, results in found.items():
        if name.startswith("peers"):
            points = list(points_of_peers(results, results.settings["batch"][0]))
            reached = sum(point.as_good for point in points)
            bare = sum(any_besides(point, results, lambda lane: lane.method == "planned") for point in points)
            unlisted = sum(any_besides(point, results, written_by_hand) for point in points)
            listed = f" Without lists of steps that were written by hand, as one in place of a peer's own schedule, it is {unlisted}." if unlisted < reached else ""
            yield (
                f"- {SECTIONS[name]}: at {reached} of {len(points)} points of the peers' fronts one built-in policy that computes no more steps (half a step let pass) is at "
                f"least as good, in the mean and in the worst sample; without `planned`, whose schedules were made from other samples of the same model, at {bare}.{listed}"
            )
    yield ""


def written_by_hand(lane: LaneResult) -> bool:
    """Whether a lane's schedule is a list of steps, and no plan's."""
    return lane.method == "planned" and "+" in str(lane.options.get("schedule"))


def any_besides(point: Point, results: Results, left_out: Callable[[LaneResult], bool]) -> bool:
    """Whether a policy that is not left out is at least as good as a peer's point."""
    others = [lane for lane in results.lanes if lane.kind == "policy" and not left_out(lane) and lane.units and steps_of(lane) <= point.steps + HALF_A_STEP]
    return any(mean_of(lane, "psnr") >= point.mean and worst_of(lane, "psnr") >= point.worst for lane in others)


def cost_section() -> Iterator[str]:
    """What forecasting adds to a step, from the file of `foreseer.bench.gpu --scale mid`."""
    file = RESULTS / "laws.json"
    if not file.exists():
        return
    content = json.loads(file.read_text(encoding="utf-8"))
    laws = content["laws"]
    yield "## What forecasting adds to a step { #cost }\n"
    yield (
        "A FLUX of 8 double and 16 single blocks, 512 wide, with 1,024 tokens of image and 64 of text, on one thread of a CPU, in processor time. The bare model "
        f"itself spends {100 * laws['full']['outside_of_blocks']:.2f} % of a step outside of its blocks.\n"
    )
    yield "```sh\npython -m foreseer.bench.gpu --scale mid --repeats 3 --out docs/results/laws.json\n```\n"
    yield "| policy | step | of a full step | added outside of the blocks | bytes held |"
    yield "|---|---|---:|---:|---:|"
    for step in laws["steps"]:
        held = laws["bytes_held"][step["policy"]]
        yield f"| {step['policy']} | {step['kind']} | {100 * step['of_full_step']:.2f} % | {100 * step['added_by_the_policy']:.2f} % | {held:,} |"
    yield ""
    blocks = max(step["added_by_the_policy"] for step in laws["steps"] if step["policy"] != "modules")
    modules = next(step for step in laws["steps"] if (step["policy"], step["kind"]) == ("modules", "forecast"))
    yield f"Policies of blocks add at most {100 * blocks:.2f} % of a full step; wanted were 0.3 %. A step in which every module is forecast costs {100 * modules['of_full_step']:.2f} %; wanted were 4 %. (commit {content['git']['commit'][:10]})\n"


def gpu_section() -> Iterator[str]:
    """Times on a GPU, and before the weighted sum was one kernel."""
    files = {name: RESULTS / f"{name}.json" for name in ("h200", "h200_hunyuan", "h200_before")}
    content = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}
    if "h200" not in content:
        return
    before = {(lane["model"], lane["policy"]): lane for lane in content.pop("h200_before", {"lanes": []})["lanes"]}
    yield "## On a GPU { #gpu }\n"
    settings, machine, versions = (content["h200"][key] for key in ("settings", "machine", "versions"))
    yield (
        f"One {machine['GPU']}, torch {versions['torch']}, {settings['dtype']}, {settings['steps']} steps. Published shapes with random weights; gates compute their evidence, and their "
        "verdicts are forced to published rates. A forecast step of module parts starts hundreds of kernels from Python, which takes the host longer than the device: there the gain ends. "
        "[How it is measured](results/README.md); what was not finished is not listed.\n"
    )
    yield "| model | policy | computed | speed-up | of what block-rows promise | full step, ms | forecast step, ms | over its bandwidth floor | kernels, waits of a forecast step | forecast step before, ms |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for lane in (lane for each in content.values() for lane in each["lanes"] if not lane["skipped"]):
        full, forecast = (1e3 * lane[f"seconds_per_{kind}_step"] for kind in ("full", "forecast"))
        work = lane["device_work"]["forecast"]
        old = before.get((lane["model"], lane["policy"]))
        was = f"{1e3 * old['seconds_per_forecast_step']:.2f}" if old else ""
        yield (
            f"| {lane['model']} | `{lane['policy']}` | {lane['steps_computed']} | {lane['speedup']:.2f}x | {100 * lane['of_promised']:.0f} % | {full:.1f} | {forecast:.2f} | "
            f"{lane['forecast_over_floor']:.1f}x | {work['kernels']:.0f}, {work['waits']:.0f} | {was} |"
        )
    yield ""
    yield (
        "Before, a weighted sum was a loop of multiply-adds in float32, and small tables were copied from pageable memory, which waits for the device. On flux-dev's features the loop "
        "took 10 to 12 times what its bytes need in bfloat16, and the one kernel 1.0 to 1.9 times where the features are larger than the launch takes.\n"
    )


def section(name: str, results: Results) -> Iterator[str]:
    """One result file."""
    yield f"## {SECTIONS[name]} {{ #{name} }}\n"
    yield results.about + "\n"
    if name in INTRODUCTION:
        yield INTRODUCTION[name] + "\n"
    yield f"```sh\nforeseer bench run docs/benchmarks/{name}.toml --out docs/results/{name}\n```\n"
    commit = str(results.git.get("commit", ""))[:10]
    machine = ", ".join(f"{key} {value}" for key, value in results.machine.items() if key in ("processor", "threads"))
    versions = ", ".join(f"{key} {value}" for key, value in results.versions.items() if key in ("foreseer", "torch", "diffusers", "cache-dit"))
    dirty = ", with changes" if results.git.get("changed") or results.git.get("dirty") else ""
    yield f"Made on: {machine}; {versions}; commit {commit}{dirty}; seed {results.seed}.\n"
    if '"stalled"' not in (RESULTS / name / "results.json").read_text(encoding="utf-8"):
        yield "Timed on its first batches only, before pairs in which the machine stood still were repeated: a ratio may be of such a pair.\n"
    if not results.finished:
        lanes = [lane for lane in results.lanes if lane.kind == "fewer"]
        most = max(len(lane.indices) for lane in results.lanes)
        none, some = (sum(low <= len(lane.indices) <= high for lane in lanes) for low, high in ((0, 0), (1, most - 1)))
        yield f"Not finished: of {len(lanes)} lanes of plain sampling with fewer steps, {none} were not drawn, and {some} on some of the samples only.\n"
    for batch in dict.fromkeys(lane.batch for lane in results.lanes):
        if name == "rows":
            continue
        yield from table(results, batch)
    if name == "rows":
        yield from rows_table(results)
    if name.startswith("peers"):
        yield from peers_table(results)
    else:
        for summary in summaries(results, results.settings["batch"][0]) if name != "rows" else ():
            yield f"- {summary.sentence}"
        yield ""
    failed = [f"- `{lane.name}`: {lane.error}" for lane in results.lanes if lane.error]
    failed += [f"- `{lane.name}`: computed every step, and said nothing" for lane in results.lanes if lane.kind == "peer" and lane.units and results.cost(lane) == 1]
    failed += [
        f"- `{lane.name}`: another picture, {mean_of(lane, 'psnr'):.1f} dB" for lane in results.lanes if lane.kind == "peer" and lane.units and mean_of(lane, "psnr") < ANOTHER_PICTURE
    ]
    if failed:
        yield "Where a method refused, failed or did nothing:\n"
        yield from failed
        yield ""
    if results.published:
        yield "What was published, on other models: nothing of it compares with the table above but its order.\n"
        yield "| method | model | numbers | source |"
        yield "|---|---|---|---|"
        for row in results.published:
            numbers = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in row.items() if isinstance(value, (int, float)))
            yield f"| {row['method']} | {row.get('model', '')} | {numbers} | {row['source']} |"
        yield ""


def table(results: Results, batch: int) -> Iterator[str]:
    """The lanes of one batch size."""
    lines = lines_of(results, batch)
    shown = [column for column in COLUMNS if any(column.text(line) for line in lines) and column.title not in ("latent error", "SSIM", "feature dist.")]
    samples = len(lines[0].lane.indices)
    yield f"{results.num_steps} steps, {samples} samples in batches of {batch}:\n"
    yield "| lane | " + " | ".join(column.title for column in shown) + " |"
    yield "|---" + "|---:" * len(shown) + "|"
    for line in lines:
        if line.lane.units:
            few = len(line.lane.indices)
            part = f" (the first {few} samples)" if few < samples else ""
            yield f"| `{line.lane.name}`{part} | " + " | ".join(column.text(line) for column in shown) + " |"
    yield ""
    if any(len(line.lane.indices) < FRECHET_MINIMUM_SAMPLES and line.lane.units for line in lines):
        yield f"\\* Frechet distances over fewer than {FRECHET_MINIMUM_SAMPLES} samples are too high, and compare with those over as many only.\n"


def peers_table(results: Results) -> Iterator[str]:
    """Each point of a peer's front beside the best policies that compute no more."""
    yield "Each point of a peer's front from 7 to 36 steps, and the best of our policies that compute as many steps or fewer (half a step more let pass):\n"
    yield "| peer | steps | PSNR | our best in the mean | PSNR | our best in the worst sample | PSNR | one of ours at least as good in both |"
    yield "|---|---:|---:|---|---:|---|---:|---|"
    for point in points_of_peers(results, results.settings["batch"][0]):
        own = [f"`{lane.name}`, {steps_of(lane):.1f} steps | {both(lane)}" if lane else "none |" for lane in (point.best_mean, point.best_worst)]
        yield f"| `{point.lane.name}` | {point.steps:.1f} | {point.mean:.1f} / {point.worst:.1f} | {own[0]} | {own[1]} | {'yes' if point.as_good else '**no**'} |"
    yield ""
    for point in points_of_peers(results, results.settings["batch"][0]):
        if not point.as_good:
            yield f"- {why_not(results, point)}"
    yield ""


def why_not(results: Results, point: Point) -> str:
    """A sentence on a peer's point that no policy reached: what it costs in blocks, and whether one reaches it at that."""
    cost, share = results.cost(point.lane), point.steps / results.num_steps
    said = f"`{point.lane.name}` was not reached. It evaluates {cost:.3f} of the block-rows"
    said += f", more than the {share:.3f} of {point.steps:.1f} steps: it computes a part of every step that it forecasts" if cost > share + 0.01 else ""
    fitting = [lane for lane in results.lanes if lane.kind == "policy" and lane.units and not lane.error and results.cost(lane) <= cost + 1e-9]
    as_good = [lane for lane in fitting if mean_of(lane, "psnr") >= point.mean and worst_of(lane, "psnr") >= point.worst]
    if not as_good:
        return f"{said}. No policy of ours that evaluates as few is as good in both."
    best = max(as_good, key=lambda lane: mean_of(lane, "psnr"))
    return f"{said}. Of ours that evaluate as few `{best.name}` is as good in both: {both(best)} dB with {results.cost(best):.3f}."


def rows_table(results: Results) -> Iterator[str]:
    """Per row against per batch, at each batch size, at equal mean quality: what it costs, and the worst sample."""
    yield "At equal mean PSNR (interpolated between the two thresholds between which it is cheapest, which may lie far apart): what deciding per row costs, over what deciding per batch costs.\n"
    yield "| policy | batch | at PSNR | block-rows, row / batch | seconds, row / batch | worst sample, row | worst sample, batch |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    batches = list(dict.fromkeys(lane.batch for lane in results.lanes))
    for method in dict.fromkeys(lane.method for lane in results.lanes if lane.kind == "policy"):
        for batch in batches:
            swept = [lane for lane in results.lanes if lane.method == method and lane.batch == batch and lane.units]
            row, together = ([lane for lane in swept if lane.options["decide"] == how] for how in ("row", "batch"))
            for quality in common_qualities(row, together):
                ours, theirs = (at_quality(results, lanes, quality) for lanes in (row, together))
                yield (
                    f"| {method} | {batch} | {quality:.1f} | {ours[0] / theirs[0]:.2f} | {theirs[1] / ours[1]:.2f} | {ours[2]:.1f} | {theirs[2]:.1f} |"
                )
    yield ""
    free = [lane for lane in results.lanes if lane.kind == "policy" and lane.options["decide"] == "row" and lane.batch == max(batches) and lane.units]
    spreads = [f"{min(lane.steps):.0f} to {max(lane.steps):.0f} ({np.std(lane.steps):.1f} standard deviation)" for lane in free]
    timed = sorted({len(lane.ratios) for lane in results.lanes if lane.kind == "policy"})
    yield f"Samples that decided for themselves computed {', '.join(spreads)} of {results.num_steps} steps, by threshold. Timed runs of a lane: {', '.join(map(str, timed))}.\n"


def common_qualities(row: list[LaneResult], together: list[LaneResult]) -> list[float]:
    """The middle of the range of mean PSNR that both sweeps cover; empty where they do not overlap."""
    ranges = [sorted(mean_of(lane, "psnr") for lane in lanes) for lanes in (row, together)]
    if not all(ranges):
        return []
    low, high = max(r[0] for r in ranges), min(r[-1] for r in ranges)
    return [] if low > high else [(low + high) / 2]


def at_quality(results: Results, lanes: list[LaneResult], quality: float) -> tuple[float, float, float]:
    """Block-rows, speed-up and worst PSNR of a sweep at a mean PSNR, interpolated between that lane below and that above between which it is cheapest.

    Not between the nearest: a threshold that costs more and gains next to nothing would stand in the way of a cheaper one.
    """
    known = {line.lane.key: line.speedup for line in lines_of(results, lanes[0].batch)}
    figures = [(mean_of(lane, "psnr"), results.cost(lane), known[lane.key], worst_of(lane, "psnr")) for lane in lanes]
    mixed = []
    for below in (f for f in figures if f[0] <= quality + 1e-9):
        for above in (f for f in figures if f[0] >= quality - 1e-9):
            share = 0.0 if math.isclose(above[0], below[0]) else (quality - below[0]) / (above[0] - below[0])
            cost, speed, worst = (b + share * (a - b) for b, a in zip(below[1:], above[1:], strict=True))
            mixed.append((cost, speed, worst))
    return min(mixed)


def both(lane: LaneResult) -> str:
    """Mean and worst PSNR."""
    return f"{mean_of(lane, 'psnr'):.1f} / {worst_of(lane, 'psnr'):.1f}"


if __name__ == "__main__":
    main()
