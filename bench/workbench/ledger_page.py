"""The page of a ledger: each gate against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from foreseer.bench.page import Section, Table, Text
from foreseer.bench.page import write_page as write
from foreseer.columns import Column
from foreseer.workbench.judged_charts import counts_chart, evidence_chart, sweep_chart
from foreseer.workbench.judgements import Judgements, StepCounts

__all__ = ["COLUMNS", "step_of", "write_page"]

COLUMNS: tuple[Column[StepCounts], ...] = (
    Column("drafts", "Samples whose draft was looked at.", lambda c: c.drafts),
    Column("judged", "Those that a gate judged, with a true error that is known.", lambda c: c.judged),
    Column("accepted", "Judged drafts that the gate accepted.", lambda c: c.accepted),
    Column("false accepts", "Accepted although the true error was above the tolerance.", lambda c: c.false_accepts),
    Column("false rejects", "Rejected although the true error was within it.", lambda c: c.false_rejects),
    Column("gate's error", "Mean over the judged drafts.", lambda c: c.error_mean, ".3g"),
    Column("true error", "Mean over all drafts.", lambda c: c.truth_mean, ".3g"),
    Column("worst", "The largest true error.", lambda c: c.truth_worst, ".3g"),
    Column("Spearman", "Rank correlation of the two errors over the samples.", lambda c: c.rank, ".2f"),
)


def step_of(counts: StepCounts) -> str:
    """Return the name of a line of counts."""
    return "all" if counts.step is None else str(counts.step)


def write_page(found: Mapping[str, Judgements], tolerances: Mapping[str, float], path: Path) -> Path:
    """Write the page: by policy what its gate said and what was true, and the true error that is tolerated.

    Raises:
        ImportError: jinja2 or plotly is missing.
        OptionError: A tolerance is out of range.
    """
    judged = {name: one for name, one in found.items() if one.comparable.any()}
    evidence = (
        "Each dot is one sample in one step: what the gate saw, and how far the forecast was off. A gate that knows "
        "the truth puts them on a rising line. The tolerance is dashed."
    )
    sweep = "Share of the drafts within the tolerance that are accepted over that of the others, as the threshold rises."
    tables = [(name, one.table(tolerances[name])) for name, one in found.items()]
    return write(
        path,
        "foreseer ledger",
        "Gates against the truth",
        [],
        [
            Section("Evidence against truth", [Text(evidence), evidence_chart(judged, tolerances)] if judged else []),
            Section("Other thresholds", [Text(sweep), sweep_chart(judged, tolerances)] if judged else []),
            Section("Step by step", [counts_chart(found, tolerances)]),
            Section("Table", [Table("step", COLUMNS, tables, step_of)]),
        ],
    )
