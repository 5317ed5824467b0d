"""Writes docs/evidence.md and the pages behind it from the committed results: every figure in them is read from a
file, and each section says which command made that file.

    python docs/_build/evidence.py            write the pages
    python docs/_build/evidence.py --check    fail if one would change
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import evidence_answer
from claims import CLAIMED_COST, verdicts
from evidence_gpu import gpu_sections
from evidence_results import loaded, model_of, of_kind, of_papers, section, title_of
from evidence_times import cost_section, gpu_section, kept_section
from front import reached
from pages import table

from foreseer.bench.results import Results

DOCS = Path(__file__).resolve().parents[1]
RESULTS = DOCS / "results"
BEHIND = "[Evidence](../evidence.md) has what it comes to."
COLUMNS = (
    "PSNR is to full computation of the model's own sampler, and *truth* to the converged solution, mean / worst sample, in dB; *gain* and *truth gain* are over the best plain "
    'solver that was drawn with as many evaluations. "Held" is what recorded features occupy; of peers what was still alive when a batch was drawn. Times are of two CPU cores '
    "that others shared: block-rows and FLOPs say more than seconds."
)


def main() -> None:
    found = loaded(RESULTS)
    pages = {DOCS / name: "\n\n".join(filter(None, parts)) + "\n" for name, parts in written(found).items()}
    if "--check" in sys.argv:
        stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
        stale += [path for path in (DOCS / "evidence").glob("*.md") if path not in pages]
        sys.exit(f"{', '.join(map(str, stale))}: not what the results say: python docs/_build/evidence.py" if stale else 0)
    for path, text in pages.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def written(found: Mapping[str, Results]) -> dict[str, Iterable[str]]:
    """Return the parts of each page, by its name in docs."""
    return {
        "evidence.md": evidence_answer.page(found),
        "evidence/solvers.md": behind("Solvers and caches", "Every lane behind [the answer](../evidence.md).", of_kind(found, "solvers")),
        "evidence/grids.md": behind(
            "Planned grids",
            "The best steps for a number of evaluations, [planned](../workbench/plan.md) on other samples, beside the solvers' own spacings.",
            of_kind(found, "grid"),
        ),
        "evidence/worst.md": behind(
            "The worst sample",
            "A planned schedule with and without the corrector, beside the best peer.",
            of_kind(found, "worst"),
        ),
        "evidence/claims.md": [*claims_over_all(of_papers(found)), *sections(of_papers(found))],
        "evidence/peers.md": behind(
            "Other libraries' caches",
            "The caches of cache-dit and of diffusers beside the built-in policies. At how many points of the peers' fronts a policy is as good:\n\n"
            + "\n".join(reached(title_of(name, results), results) for name, results in of_kind(found, "peers").items()),
            of_kind(found, "peers"),
        ),
        "evidence/methods.md": behind(
            "The field's methods, measured",
            "[The methods of this field](../methods.md) says what each is. Few samples: only large differences are beyond noise.",
            of_kind(found, "methods"),
        ),
        "evidence/cost.md": ["# What forecasting costs", BEHIND, *cost_section(RESULTS), *kept_section(RESULTS), *gpu_section(RESULTS), *gpu_sections(RESULTS)],
    }


def behind(title: str, said: str, found: Mapping[str, Results]) -> Iterator[str]:
    """A page of one kind of results."""
    yield f"# {title}"
    yield said
    yield COLUMNS
    if not found:
        yield "There are no results yet: `make evidence` makes them."
    yield from sections(found)


def sections(found: Mapping[str, Results]) -> Iterator[str]:
    """The sections of results."""
    return (part for name, results in found.items() for part in section(RESULTS, name, results))


def claims_over_all(found: Mapping[str, Results]) -> Iterator[str]:
    """Every verdict, with its numbers."""
    yield "# The papers' claims"
    yield (
        "A claim holds where every comparison that the results allow is for it beyond noise: three standard "
        "errors of the paired differences, more where samples are few (Student's t). It fails where some "
        "are against it and none for it, is mixed where some are for it and others not, and open where none "
        "is beyond noise. Verdicts are about the mean; the worst sample stands beside them. Near to full computation of the model's own sampler is what "
        "the papers mean; [near to the solution](../evidence.md) is another question."
    )
    rows = [row for name, results in found.items() for figure in ("psnr", "truth") for row in claim_rows(name, results, figure)]
    yield table("claim | to | model | batch | verdict | what was found", rows)
    yield COLUMNS


def claim_rows(name: str, results: Results, figure: str) -> Iterator[list[object]]:
    """The verdicts of one folder of results, by one distance; those on the cost of verification in one row."""
    every = verdicts(results, figure=figure)
    costs = [verdict for verdict in every if verdict.claim == "verification_cost"]
    told = [(verdict, verdict.sentence) for verdict in every if verdict not in costs]
    if costs:
        low, *_, high = 2 * sorted(100 * verdict.numbers["share_of_seconds"] for verdict in costs)
        block = costs[0].numbers["share_of_blocks"]
        why = ": with so few blocks it cannot hold" if block > CLAIMED_COST[1] else ""
        said = f"{low:.1f} to {high:.1f} % of a full step by the clock; one block of {results.depth} is"
        told.append((costs[0], f"{said} {100 * block:.1f} %{why}."))
    for verdict, sentence in told:
        to = "" if verdict in costs else "the solution" if figure == "truth" else "full computation"
        yield [verdict.paper, to, f"[{model_of(results.family)}](#{name})", verdict.batch, f"**{verdict.finding}**", sentence]


if __name__ == "__main__":
    main()
