"""A section for each folder of results, on the pages behind `docs/evidence.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from evidence_rows import rows_table
from front import ANOTHER_PICTURE, peers_table
from pages import table

from foreseer.bench.reference import told
from foreseer.bench.results import FILE, Results
from foreseer.bench.sentences import summaries
from foreseer.bench.summary import lines_of, mean_of
from foreseer.bench.tables import columns_of
from foreseer.zoo.judge import FRECHET_MINIMUM_SAMPLES

FAMILIES = {
    "dit": "the DiT",
    "flux": "the FLUX-shaped model",
    "wan": "the Wan-shaped model",
    "fashion": "the DiT of clothing",
    "fashion_unlike": "the DiT of clothing, on trousers and patterned clothes",
}
"""How sentences call the bundled models, in the order of the pages; another by its own name."""

TITLES = {
    "taylorseer": "TaylorSeer's table, in miniature",
    "taylorseer_flux": "TaylorSeer's FLUX table, in miniature",
    "cg_taylor": "CG-Taylor's table, in miniature",
    "speca": "SpeCa's table, in miniature",
    "rows": "Decisions per row and per batch",
    "solvers": "Solvers and caches",
    "grid": "Planned grids",
    "worst": "The worst sample",
    "peers": "Peers",
    "methods": "The field's methods",
}
"""Headings by the folder's name, or by its first word where the rest names the model. What is in neither is called
by its name.
"""

INTRODUCTION = {
    "rows_fashion": "One half of each batch are trousers, all alike, the other pullovers, dresses, shirts and bags, which are patterned.",
    "taylorseer": "Forecasting gains in the mean and loses in the worst sample: a few samples turn in the "
    "first steps after the warm-up, which a line through its two steps misses. "
    "See [taylorseer](../policies/taylorseer.md#when-to-use-it).",
    "cg_taylor": "The gate gains where many steps are computed and loses where few are: its block runs in "
    "every step, and is one of 12 here, one of 57 in the paper's FLUX. Each "
    "threshold is there twice, deciding per sample and per batch.",
    "speca": "Why the worst sample stays behind whatever the threshold, and what helps: [speca](../policies/speca.md#when-to-use-it).",
}

WITHOUT_TRUTH = (
    "These results are from before there was a converged reference, and before other solvers were drawn beside: they say how near a lane "
    "stays to full computation of the model's own sampler, and fewer steps are that sampler's. [What that hides](../evidence.md)."
)


def model_of(family: str) -> str:
    """Return how a sentence calls a model."""
    return FAMILIES.get(family, family)


def title_of(name: str, results: Results) -> str:
    """Return the heading of a folder of results."""
    kind = kind_of(name)
    return TITLES.get(name) or f"{TITLES.get(kind, kind)} on {model_of(results.family)}"


def kind_of(name: str) -> str:
    """Return the folder's name without its model."""
    return name if name in TITLES else name.partition("_")[0]


def loaded(folder: Path) -> dict[str, Results]:
    """Return all results by the name of their folder, the bundled models in their order."""
    found = {path.parent.name: Results.load(path) for path in sorted(folder.glob(f"*/{FILE}"))}
    known, order = [*TITLES], [*FAMILIES]

    def place(name: str) -> tuple[int, int]:
        kind, family = kind_of(name), found[name].family
        return (known.index(kind) if kind in known else len(known)), (order.index(family) if family in order else len(order))

    return {name: found[name] for name in sorted(found, key=place)}


def of_kind(found: Mapping[str, Results], kind: str) -> dict[str, Results]:
    """Return the results of one kind, such as ``"peers"``, of all models."""
    return {name: results for name, results in found.items() if kind_of(name) == kind}


def of_papers(found: Mapping[str, Results]) -> dict[str, Results]:
    """Return the results of the papers' tables in miniature."""
    return {name: results for name, results in found.items() if kind_of(name) not in ("solvers", "grid", "worst", "peers", "methods")}


def section(folder: Path, name: str, results: Results) -> Iterator[str]:
    """One folder of results."""
    batches, kind = results.settings["batch"], kind_of(name)
    yield f"## {title_of(name, results)} {{ #{name} }}"
    yield results.about
    yield INTRODUCTION.get(name, "")
    yield f"```sh\nforeseer bench run docs/benchmarks/{name}.toml --out docs/results/{name}\n```"
    yield made_on(results)
    yield told(results.reference) or WITHOUT_TRUTH
    if results.schema == "1.0" and '"stalled"' not in (folder / name / FILE).read_text(encoding="utf-8"):
        yield "Timed on its first batches only, before pairs in which the machine stood still were repeated: a ratio may be of such a pair."
    if not results.finished:
        counts = [len(lane.indices) for lane in results.lanes if lane.kind == "fewer"]
        most = max(len(lane.indices) for lane in results.lanes)
        yield (
            f"Not finished: of {len(counts)} lanes of plain sampling with fewer steps, {counts.count(0)} "
            f"were not drawn, and {sum(0 < count < most for count in counts)} on some of the samples only."
        )
    if kind == "rows":
        yield from rows_table(results)
    if kind != "rows" or results.reference:
        for batch in dict.fromkeys(lane.batch for lane in results.lanes):
            yield from lanes_table(results, batch)
    if kind == "peers":
        yield from peers_table(results)
    elif kind != "rows":
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


def made_on(results: Results) -> str:
    """Say on what machine, with which versions and from which commit results were made."""
    machine, versions = (
        ", ".join(f"{key} {known[key]}" for key in known if key in wanted)
        for known, wanted in (
            (results.machine, ("processor", "threads")),
            (results.versions, ("foreseer", "torch", "diffusers", "cache-dit")),
        )
    )
    return f"Made on: {machine}; {versions}; commit {commit_of(results)}; seed {results.seed}."


def commit_of(results: Results) -> str:
    """Return the commit that results were made from, and whether files were changed since."""
    changed = results.git.get("changed") or results.git.get("dirty")
    return str(results.git.get("commit", ""))[:10] + (", with changes" if changed else "")


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
    left_out = ("latent error", "SSIM", "layout", "feature dist.")
    shown = [each for each in columns_of(results) if each.title not in left_out and any(map(each.text, lines))]
    yield f"{results.num_steps} steps, {samples} samples in batches of {batch}:"
    rows = []
    for line in drawn:
        few = len(line.lane.indices)
        part = f" (the first {few} samples)" if few < samples else ""
        rows.append([f"`{line.lane.name}`{part}", *(column.text(line) for column in shown)])
    yield table(" | ".join(["lane", *(f"{column.title}:" for column in shown)]), rows)
    if any(len(line.lane.indices) < FRECHET_MINIMUM_SAMPLES for line in drawn):
        yield (f"\\* Frechet distances over fewer than {FRECHET_MINIMUM_SAMPLES} samples are too high, and compare with those over as many only.")
