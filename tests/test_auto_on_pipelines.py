"""`auto` on pipelines: the first call is the bare one's bit for bit, streams of a call share their steps, and another size is another kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TINY

import foreseer
from foreseer.types import Site


@pytest.mark.parametrize("name", ["FluxPipeline:true_cfg", "WanPipeline"])
def test_a_call_that_is_recorded_is_the_bare_one_and_later_ones_are_accelerated(name: str, tmp_path: Path) -> None:
    kind = TINY[name]
    pipe = kind.build()
    bare = [kind.call(pipe, steps=6, batch=2), kind.call(pipe, steps=6, size="large")]
    for started in range(2):
        with foreseer.attach(pipe, "auto:steps=3,samples=2", cache=str(tmp_path)) as attached:
            for call in range(2):
                found = kind.call(pipe, steps=6, batch=2)
                reports = list(attached.reports.values())
                assert len(reports) == 2
                assert {report.run.latent for report in reports} == {reports[0].run.latent} != {""}
                if started == call == 0:
                    torch.testing.assert_close(found, bare[0], rtol=0, atol=0)
                    assert all("0 of 2 samples" in report.warnings[0] for report in reports)
                else:
                    assert {len(report.full_steps) for report in reports} == {3}
                    assert len({tuple(report.full_steps) for report in reports}) == 1
                    assert all(site.since == -1 for report in reports for site in report.bytes_held if isinstance(site, Site))
            if not started:
                torch.testing.assert_close(kind.call(pipe, steps=6, size="large"), bare[1], rtol=0, atol=0)
                assert "0 of 2 samples" in attached.report.warnings[0]
    assert len(list(tmp_path.rglob("plan.json"))) == 1
