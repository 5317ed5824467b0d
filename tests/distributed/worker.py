"""One of two processes that share every sample's tokens: `python worker.py RANK FOLDER CASE...`. Started by `test_distributed.py`.

Leaves `FOLDER/CASE.RANK.pt` for each case. A collective that waits longer than `PATIENCE` raises, so that a deadlock is an error here too.
"""

import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny import TINY

import foreseer
from distributed.cases import CASES, LocalErrors, policy_of
from foreseer.adapters.parallel import GroupVote

PATIENCE = timedelta(seconds=60)
RANK, WORLD = int(sys.argv[1]), 2


def share_tokens(pipe):
    """Have the processes share the transformer's tokens (Ulysses)."""
    from diffusers import ContextParallelConfig

    pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=WORLD))
    return pipe


def account(attached, **more):
    """What both processes must agree on, and what they may not."""
    found = {}
    for name, report in attached.reports.items():
        found[name] = {"computed": report.computed, "error": report.error, "warnings": report.warnings, "thresholds": report.thresholds}
    return {"reports": found, **more}


def run_pipeline(case):
    pipe = share_tokens(TINY[case.pipeline].build())
    LocalErrors.seen.clear()
    votes = count_votes()
    with foreseer.attach(pipe, policy_of(case)) as attached:
        output = TINY[case.pipeline].call(pipe, steps=case.steps, batch=case.batch)
        return account(attached, output=output, local=list(LocalErrors.seen), votes=dict(votes))


def run_late(case):
    """Parallelism is enabled on a model that is attached already, and has run."""
    pipe = TINY[case.pipeline].build()
    with foreseer.attach(pipe, policy_of(case)) as attached:
        alone = TINY[case.pipeline].call(pipe, steps=case.steps, batch=case.batch)
        share_tokens(pipe)
        together = TINY[case.pipeline].call(pipe, steps=case.steps, batch=case.batch)
        return account(attached, alone=alone, output=together)


def run_between(case):
    """Find a threshold between the errors that the two processes measure on their own tokens, then run with it."""
    pipe = share_tokens(TINY[case.pipeline].build())
    LocalErrors.seen.clear()
    with foreseer.attach(pipe, LocalErrors.policy(1e9)):
        TINY[case.pipeline].call(pipe, steps=case.steps, batch=case.batch)
    mine = torch.stack(LocalErrors.seen)[0]
    both = [torch.zeros_like(mine) for _ in range(WORLD)]
    distributed.all_gather(both, mine)
    threshold = torch.stack(both).mean().item()
    LocalErrors.seen.clear()
    with foreseer.attach(pipe, LocalErrors.policy(threshold)) as attached:
        TINY[case.pipeline].call(pipe, steps=case.steps, batch=case.batch)
        return account(attached, local=list(LocalErrors.seen), threshold=threshold)


class Waiting(nn.Module):
    """A block in which the processes wait for each other, as under tensor parallelism or FSDP."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = nn.Linear(8, 8), 0

    def forward(self, x, t):
        self.calls += 1
        distributed.all_reduce(x.mean())
        return x + self.inner(x).tanh() * (1 + t / 10)


class Faulty(nn.Module):
    """Four such blocks. On process 1 something may be wrong: its output tells whether its last block ran, or how many rows there are."""

    def __init__(self, fault):
        super().__init__()
        self.blocks, self.fault = nn.ModuleList(Waiting() for _ in range(4)), fault if RANK == 1 else ""

    def forward(self, hidden_states, t):
        x, before = hidden_states, self.blocks[-1].calls
        for block in self.blocks:
            x = block(x, t)
        if self.fault == "last block" and self.blocks[-1].calls == before:
            x = x + 0.1
        return x * len(x) if self.fault == "rows" else x


@torch.no_grad()
def run_faulty(case):
    """A model of each process's own, with each process's own rows: they share no tokens, but wait for each other all the same."""
    torch.manual_seed(0)
    model = Faulty(case.fault)
    first, drift = (torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(seed + RANK)) for seed in (10, 20))
    with foreseer.attach(model, policy_of(case), process_group=distributed.group.WORLD) as attached, attached.run(num_steps=case.steps):
        for step in range(case.steps):
            model(first + 0.1 * step * drift, torch.tensor(float(step)))
        (backbone,) = attached._driver._streams._backbones.values()
        return account(attached, separable=backbone.anatomy.separable)


@torch.no_grad()
def run_assembly(case):
    """A DiT, whose blocks are put together from forecast parts where that gives the same bits. On process 1 it does not for block 1."""
    pipe = TINY[case.pipeline].build()
    if RANK == 1:
        pipe.transformer.transformer_blocks[1].register_forward_hook(lambda block, args, output: output + 1)
    with foreseer.attach(pipe, policy_of(case), process_group=distributed.group.WORLD) as attached:
        TINY[case.pipeline].call(pipe, steps=case.steps, batch=case.batch)
        (backbone,) = attached._driver._streams._backbones.values()
        return account(attached, assembled=[backbone.anatomy.assemblies[index] is not None for index in range(backbone.depth)])


def count_votes():
    """Count the all-reduces of GroupVote from here on."""
    counted = {"sum": 0, "max": 0}

    def counting(name, plain):
        def voted(self, values):
            counted[name] += 1
            return plain(self, values)

        return voted

    for name, plain in PLAIN.items():
        setattr(GroupVote, name, counting(name, plain))
    return counted


PLAIN = {"sum": GroupVote.sum, "max": GroupVote.max}
RUNS = {"pipeline": run_pipeline, "late": run_late, "between": run_between, "faulty": run_faulty, "assembly": run_assembly}


def main(folder, names):
    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 1  # enable_parallelism divides by it, and a CPU counts as none
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=RANK, world_size=WORLD, timeout=PATIENCE)
    for name in names:
        began = time.perf_counter()
        found = RUNS[CASES[name].kind](CASES[name])
        torch.save({**found, "seconds": time.perf_counter() - began}, folder / f"{name}.{RANK}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # diffusers' and torch's own about experimental parts; the tests proper turn warnings into errors
    main(Path(sys.argv[2]), sys.argv[3:])
