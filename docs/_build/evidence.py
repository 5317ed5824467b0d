"""Writes docs/evidence.md from the committed results: every figure in it is read from a file, and each
section says which command made that file.

    python docs/_build/evidence.py            write docs/evidence.md
    python docs/_build/evidence.py --check    fail if it would change
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from claims import CLAIMED_COST, verdicts
from evidence_planned import planned_section
from evidence_rows import rows_table
from evidence_times import cost_section, gpu_section
from front import ANOTHER_PICTURE, peers_table, reached
from pages import table

from foreseer.bench.results import Results
from foreseer.bench.sentences import summaries
from foreseer.bench.summary import lines_of, mean_of
from foreseer.bench.tables import COLUMNS
from foreseer.zoo.judge import FRECHET_MINIMUM_SAMPLES

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
    "methods_dit": "The field's methods on the DiT",
    "methods_flux": "The field's methods on the FLUX-shaped model",
    "methods_wan": "The field's methods on the Wan-shaped model",
}
"""Folder of results, which is the name of its settings file, and heading."""

HEAD = """# Evidence

What these methods do on three small trained models, measured in one harness: the same noises and conditions in every lane, paired sample by sample, with plain
sampling of fewer steps beside everything. This page is written from result files by `python docs/_build/evidence.py`; no number in it was typed.

The models are miniatures, and say little about how a policy fares on a large model. What can be relied on is that every method met the same noises. Thresholds
do not carry over. Times are of two CPU cores of a machine that others shared, so that block-rows and FLOPs say more than seconds; each time is a ratio to full
computation run right before or after it. [On a GPU](#gpu) there are times of large models with random weights, and no quality.

PSNR is to full computation's sample, mean / worst, in dB. "Peak" is the most bytes of tensors alive at once. "Held" is what recorded features occupy; of peers
what was still alive when a batch was drawn, which is nothing where they let go with the last step."""

INTRODUCTION = {
    "rows": "At batch 1 both are one and the same, so that its ratios show the noise. Above 1, deciding per "
    "row costs more at the same quality. Each batch holds easy and hard "
    "samples; still they are digits of one model, and more alike than prompts are.",
    "taylorseer": "Forecasting gains in the mean and loses in the worst sample: a few samples turn in the "
    "first steps after the warm-up, which a line through its two steps misses. "
    "See [taylorseer](policies/taylorseer.md#when-to-use-it).",
    "cg_taylor": "The gate gains where many steps are computed and loses where few are: its block runs in "
    "every step, and is one of 12 here, one of 57 in the paper's FLUX. Each "
    "threshold is there twice, deciding per sample and per batch.",
    "speca": "Why the worst sample stays behind whatever the threshold, and what helps: [speca](policies/speca.md#when-to-use-it).",
}


def main() -> None:
    text = page()
    if "--check" in sys.argv:
        known = PAGE.read_text(encoding="utf-8") == text
        sys.exit(0 if known else f"{PAGE} is not what the results say: python docs/_build/evidence.py")
    PAGE.write_text(text, encoding="utf-8")


def page() -> str:
    """The whole page."""
    found = {name: Results.load(RESULTS / name) for name in SECTIONS if (RESULTS / name).is_dir()}
    parts = [HEAD, *claims_over_all(found)]
    parts += [*planned_section(RESULTS), *cost_section(RESULTS), *gpu_section(RESULTS)]
    parts += [part for name, results in found.items() for part in section(name, results)]
    return "\n\n".join(filter(None, parts)) + "\n"


def claims_over_all(found: dict[str, Results]) -> Iterator[str]:
    """Every verdict, and whether peers are reached, on top."""
    yield "## The papers' claims"
    yield (
        "A claim holds where every comparison that the results allow is for it beyond noise: three standard "
        "errors of the paired differences, more where samples are few (Student's t). It fails where some "
        "are against it and none for it, is mixed where some are for it and others not, and open where none "
        "is beyond noise. Verdicts are about the mean; the worst sample stands beside them."
    )
    rows = []
    for name, results in found.items():
        if name.startswith(("peers", "methods")):
            continue
        every = verdicts(results)
        costs = [verdict for verdict in every if verdict.claim == "verification_cost"]
        told = [(verdict, verdict.sentence) for verdict in every if verdict not in costs]
        if costs:
            low, *_, high = 2 * sorted(100 * verdict.numbers["share_of_seconds"] for verdict in costs)
            block = costs[0].numbers["share_of_blocks"]
            why = ": with so few blocks it cannot hold" if block > CLAIMED_COST[1] else ""
            said = f"{low:.1f} to {high:.1f} % of a full step by the clock; one block of {results.depth} is"
            told.append((costs[0], f"{said} {100 * block:.1f} %{why}."))
        for verdict, sentence in told:
            model = f"[{results.family}](#{name})"
            rows.append([verdict.paper, model, verdict.batch, f"**{verdict.finding}**", sentence])
    yield table("claim | model | batch | verdict | what was found", rows)
    peers = {name: results for name, results in found.items() if name.startswith("peers")}
    yield "\n".join(reached(SECTIONS[name], results) for name, results in peers.items())


def section(name: str, results: Results) -> Iterator[str]:
    """One result file."""
    batches, raw = results.settings["batch"], (RESULTS / name / "results.json").read_text(encoding="utf-8")
    yield f"## {SECTIONS[name]} {{ #{name} }}"
    yield results.about
    yield INTRODUCTION.get(name, "")
    yield f"```sh\nforeseer bench run docs/benchmarks/{name}.toml --out docs/results/{name}\n```"
    machine, versions = (
        ", ".join(f"{key} {known[key]}" for key in known if key in wanted)
        for known, wanted in (
            (results.machine, ("processor", "threads")),
            (results.versions, ("foreseer", "torch", "diffusers", "cache-dit")),
        )
    )
    commit = str(results.git.get("commit", ""))[:10]
    commit += ", with changes" if results.git.get("changed") or results.git.get("dirty") else ""
    yield f"Made on: {machine}; {versions}; commit {commit}; seed {results.seed}."
    if '"stalled"' not in raw:
        yield ("Timed on its first batches only, before pairs in which the machine stood still were repeated: a ratio may be of such a pair.")
    if not results.finished:
        counts = [len(lane.indices) for lane in results.lanes if lane.kind == "fewer"]
        most = max(len(lane.indices) for lane in results.lanes)
        yield (
            f"Not finished: of {len(counts)} lanes of plain sampling with fewer steps, {counts.count(0)} "
            f"were not drawn, and {sum(0 < count < most for count in counts)} on some of the samples only."
        )
    if name == "rows":
        yield from rows_table(results)
    else:
        for batch in dict.fromkeys(lane.batch for lane in results.lanes):
            yield from lanes_table(results, batch)
    if name.startswith("peers"):
        yield from peers_table(results)
    elif name != "rows":
        yield "\n".join(f"- {summary.sentence}" for summary in summaries(results, batches[0]))
    failed = list(failures(results))
    if failed:
        yield "Where a method refused, failed or did nothing:"
        yield "\n".join(failed)
    if results.published:
        yield "What was published, on other models: nothing of it compares with the table above but its order."
        rows = []
        for row in results.published:
            known = [(key, value) for key, value in row.items() if isinstance(value, (int, float))]
            numbers = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in known)
            rows.append([row["method"], row.get("model", ""), numbers, row["source"]])
        yield table("method | model | numbers | source", rows)


def failures(results: Results) -> Iterator[str]:
    """Lanes that failed, and peers that did nothing or drew another picture."""
    peers = [lane for lane in results.lanes if lane.kind == "peer" and lane.units]
    yield from (f"- `{lane.name}`: {lane.error}" for lane in results.lanes if lane.error)
    every = (lane for lane in peers if results.cost(lane) == 1)
    yield from (f"- `{lane.name}`: computed every step, and said nothing" for lane in every)
    means = ((lane.name, mean_of(lane, "psnr")) for lane in peers)
    yield from (f"- `{name}`: another picture, {mean:.1f} dB" for name, mean in means if mean < ANOTHER_PICTURE)


def lanes_table(results: Results, batch: int) -> Iterator[str]:
    """The lanes of one batch size."""
    lines = lines_of(results, batch)
    samples = len(lines[0].lane.indices)
    drawn = [line for line in lines if line.lane.units]
    left_out = ("latent error", "SSIM", "feature dist.")
    shown = [each for each in COLUMNS if each.title not in left_out and any(map(each.text, lines))]
    yield f"{results.num_steps} steps, {samples} samples in batches of {batch}:"
    rows = []
    for line in drawn:
        few = len(line.lane.indices)
        part = f" (the first {few} samples)" if few < samples else ""
        rows.append([f"`{line.lane.name}`{part}", *(column.text(line) for column in shown)])
    yield table(" | ".join(["lane", *(f"{column.title}:" for column in shown)]), rows)
    if any(len(line.lane.indices) < FRECHET_MINIMUM_SAMPLES for line in drawn):
        yield (f"\\* Frechet distances over fewer than {FRECHET_MINIMUM_SAMPLES} samples are too high, and compare with those over as many only.")


if __name__ == "__main__":
    main()
