"""The page that answers: should I use a cache, and which. Every number and every word that depends on one is made
of the results of `docs/benchmarks/solvers_*.toml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs
from claims import verdicts
from evidence_results import commit_of, model_of, of_kind, of_papers
from evidence_short import links
from pages import table
from verdict import COUNTS, WAYS, Choice, Held, choices, enough_steps

from foreseer.bench.reference import told
from foreseer.bench.results import LaneResult, Results
from foreseer.bench.summary import Gain, mean_of, worst_of


@attrs.frozen
class Answer:
    """What one model's results say.

    Attributes:
        name: Of their folder.
        results: All lanes.
        choices: By number of evaluations.
    """

    name: str
    results: Results
    choices: Sequence[Choice]

    @property
    def batch(self) -> int:
        """Samples that were drawn together."""
        return int(self.results.settings["batch"][0])

    @property
    def full(self) -> LaneResult:
        """Full computation."""
        return self.results.full(self.batch)


def answers(found: Mapping[str, Results]) -> list[Answer]:
    """Return what the finished results on solvers say, of each model of which there are any: where solvers are missing
    a cache would seem to beat them.
    """
    every = ((name, results, choices(results, results.settings["batch"][0])) for name, results in of_kind(found, "solvers").items() if results.finished)
    return [Answer(*one) for one in every if one[2]]


def page(found: Mapping[str, Results]) -> Iterator[str]:
    """The page."""
    said = answers(found)
    yield "# Evidence"
    yield "## Should I use a cache, and which?"
    yield from first_screen(said) if said else ["The results that answer this are not there yet: `make evidence` makes them."]
    for answer in said:
        yield from family(answer)
    yield "## The papers' claims { #claims }"
    yield (
        "Papers measure how near a method stays to full computation of the model's own sampler; the last column is against the converged solution. A claim holds where every "
        "comparison that the results allow is for it beyond noise, fails where some are against it and none for it, is mixed where some are for it, and open where none is "
        "beyond noise. [The numbers](evidence/claims.md)."
    )
    yield table("claim | to full computation | to the converged solution", claims(of_papers(found)))
    if old := [name for name, results in of_papers(found).items() if not results.reference]:
        yield (
            f"{_listed([f'[{name}](evidence/claims.md#{name})' for name in old])} {'is' if len(old) == 1 else 'are'} from before other solvers and the converged solution "
            "were drawn beside: fewer steps are there of the model's own sampler, and the last column is empty."
        )
    yield "## Behind this page"
    yield links(found)
    yield "`make evidence` makes every number of these pages anew; no number was typed. [How it is measured](bench.md)."


def first_screen(said: Sequence[Answer]) -> Iterator[str]:
    """The answer, what it rests on, and what it does not cover."""
    yield lead(said)
    yield table(" | ".join(["evaluations of the model", *map(str, COUNTS)]), [[f"[{model_of(one.results.family)}](#{one.name})", *cells(one)] for one in said])
    yield (
        "*Solver*: fewer steps of the best plain solver, no cache. *Cache*: a cache on the model's own sampler with all its steps. *Both*: a cache on a better solver. "
        "*Level*: no difference beyond noise, so that the solver is the better choice, being simpler. Bold: nearer to the converged solution than every other, beyond noise."
    )
    yield "**It rests on**"
    yield "\n".join(rests_on(said))
    yield "**It does not cover**"
    yield (
        "- Large models: these are miniatures that train on two cores, and no text-to-image model was at hand. Trust the order, not the decibels; thresholds "
        "do not carry over. [Do the same on yours](cli.md#foreseer-compare): `foreseer compare --solvers ... --reference ...`.\n"
        "- Distilled models, which have few steps to save, and samplers that add noise, which have no converged solution.\n"
        "- Seconds: an evaluation is counted as the blocks it runs. What a cache adds [costs time, on a GPU most](evidence/cost.md).\n"
        "- What looks better: nearer to the solution is not nicer. Where today's 50-step pictures are what you want, go by the numbers in brackets below."
    )


def lead(said: Sequence[Answer]) -> str:
    """The answer in a few sentences."""
    every = [choice for one in said for choice in one.choices if len(choice.ways) > 1]
    helped = [choice for choice in every if "solver" not in choice.winners]
    ahead = {way: sum(choice.winners == (way,) for choice in every) for way in WAYS}
    text = f"At {len(every) - len(helped)} of {len(every)} places of this table no cache comes nearer to the converged solution, beyond noise, than the best plain solver "
    text += "with as many evaluations of the model"
    rest = [f"{ahead[way]} a cache on {whose} does" for way, whose in (("both", "a better solver"), ("cache", "the model's own sampler")) if ahead[way]]
    other = len(helped) - ahead["both"] - ahead["cache"]
    rest += [f"{other} a cache does on either"] if other else []
    where = [model_of(one.results.family) for one in said if any(choice in helped for choice in one.choices)]
    text += f"; at {' and at '.join(rest)} ({which(helped)}), on {_listed(where)}." if rest else "."
    few, most = ([model_of(one.results.family) for one in said if (2 * share(one) > 1) is mostly] for mostly in (False, True))
    headline = "Take a better solver before you take a cache."
    if most:
        headline = "Take a better solver, and a cache on it." if ahead["both"] > ahead["cache"] else "Take a cache on your sampler."
    if few and most:
        headline = f"It depends on the model: a better solver is enough on {_listed(few)}, and a cache comes nearer on {_listed(most)}."
    return " ".join(filter(None, [f"**{headline}**", text, where_enough(said), todays_pictures(said)]))


def share(one: Answer) -> float:
    """At which share of a model's places a cache comes nearer than every plain solver."""
    every = [choice for choice in one.choices if len(choice.ways) > 1]
    return sum("solver" not in choice.winners for choice in every) / max(len(every), 1)


def which(helped: Sequence[Choice]) -> str:
    """Which caches come nearer than every plain solver; empty for none."""
    best = sorted({f"`{choice.ways[choice.winners[0]].lane.method}`" for choice in helped})
    return _listed(best) if best else ""


def todays_pictures(said: Sequence[Answer]) -> str:
    """The same against full computation of the model's own sampler, which is what papers measure."""
    every = [choice for one in said for choice in choices(one.results, one.batch, figure="psnr") if len(choice.ways) > 1]
    nearer = [choice for choice in every if "solver" not in choice.winners]
    text = f"If you want the pictures that your sampler draws today, and not the solution, a cache is nearer to those at {len(nearer)} of {len(every)} places"
    return f"{text}: {which(nearer)}." if nearer else f"{text}."


def where_enough(said: Sequence[Answer]) -> str:
    """How few evaluations of a better solver are nearer than today's full computation."""
    found = [(one, enough_steps(one.results, one.batch)) for one in said]
    able = [f"{enough[0].num_steps} on {model_of(one.results.family)}" for one, enough in found if enough is not None]
    if not able:
        return ""
    steps = " or ".join(sorted({str(one.results.num_steps) for one in said}))
    never = [model_of(one.results.family) for one, enough in found if enough is None]
    text = f"With so few evaluations a better solver is nearer than all {steps} steps of the model's own sampler: {_listed(able)}"
    return f"{text}; with up to {max(COUNTS)} none is on {_listed(never)}." if never else f"{text}."


def cells(answer: Answer) -> Iterator[str]:
    """The first table's cells of one model."""
    by_count = {choice.count: choice for choice in answer.choices}
    for count in COUNTS:
        choice = by_count.get(count)
        if choice is None:
            yield ""
        elif len(choice.ways) < 2:
            yield "no cache tried"
        else:
            yield f"**{choice.winners[0]}**" if choice.clear else verdict_of(choice)


def verdict_of(choice: Choice) -> str:
    """Return the winners in a word or two."""
    return "level" if len(choice.winners) == len(choice.ways) > 1 else " or ".join(way for way in WAYS if way in choice.winners)


def rests_on(said: Sequence[Answer]) -> Iterator[str]:
    """Samples, noises, the reference and its proof."""
    for one in said:
        results = one.results
        samples = len(one.full.indices)
        yield f"- {heading(results.family)}: {samples} samples, seed {results.seed}, the same noises in every lane. {told(results.reference)}"
    yield (
        "- Noise: differences are paired by sample; Student's t at three standard deviations, stricter the more caches there were to choose from "
        "(Bonferroni). At unequal evaluations, which a cache that decides for itself has, it is held against the plain solvers interpolated to them."
    )


def family(answer: Answer) -> Iterator[str]:
    """The section of one model."""
    results = answer.results
    yield f"## {heading(results.family)} {{ #{answer.name} }}"
    yield verdict_in_words(answer)
    yield f"<!-- front: {answer.name} -->"
    yield table("evaluations: | best plain solver | best cache on the model's own sampler | best cache on a better solver", rows(answer))
    yield (
        f"Each cell: PSNR to the converged solution, mean / worst sample, dB; in brackets to the {results.num_steps} steps of the model's own sampler, mean; then what a "
        "cache gains over the best plain solver with as many evaluations, with its standard error, and in the worst sample. Bold: beyond noise. Best is the one that gains "
        f"most. All {results.num_steps} steps of the model's own sampler have {both(answer.full, 'truth')} dB. Commit {commit_of(results)}; "
        f"[every lane](evidence/solvers.md#{answer.name})."
    )


def heading(family: str) -> str:
    """Return a model's name as a heading."""
    name = model_of(family).removeprefix("the ")
    return name[0].upper() + name[1:]


def rows(answer: Answer) -> Iterator[list[str]]:
    """The table of one model."""
    for choice in answer.choices:
        yield [str(choice.count), *(cell(choice.ways.get(way), choice) for way in WAYS)]


def cell(held: Held | None, choice: Choice) -> str:
    """One way at one number of evaluations."""
    if held is None:
        return "none tried"
    lane = held.lane
    text = f"{both(lane, 'truth')} ({mean_of(lane, 'psnr'):.1f})<br>{written(lane)}"
    if held.over is not None:
        text += f"<br>{gained(held.over)}, at {held.evaluations:.1f} evaluations"
    return f"**{text.replace('<br>', '**<br>', 1)}" if choice.clear and held.way in choice.winners else text


def gained(over: Gain) -> str:
    """Return a gain with its standard error, and that of the worst sample."""
    return f"{over.mean:+.1f} ± {over.error:.1f}, worst {over.worst:+.1f}"


def written(lane: LaneResult) -> str:
    """Return a lane's name, short enough for a cell."""
    if lane.kind == "fewer":
        return f"`{lane.solver}`" if lane.solver else "its own sampler"
    policy, on, solver = lane.name.partition(" on ")
    policy = policy.replace("docs/benchmarks/plans/", "")
    return f"`{policy}`{f' on `{lane.solver}`, {lane.num_steps} steps' if on and solver else ''}"


def both(lane: LaneResult, figure: str) -> str:
    """Return mean and worst sample."""
    return f"{mean_of(lane, figure):.1f} / {worst_of(lane, figure):.1f}"


def verdict_in_words(answer: Answer) -> str:
    """What the table says."""
    results, enough = answer.results, enough_steps(answer.results, answer.batch)
    full = f"all {results.num_steps} steps of its own sampler"
    if enough is None:
        said = [f"No other solver with up to {max(choice.count for choice in answer.choices)} evaluations is nearer to the converged solution than {full}."]
    else:
        lane, over = enough
        said = [f"`{lane.solver}` with {lane.num_steps} evaluations is nearer to the converged solution than {full}, by {over.mean:.1f} dB."]
    for way, whose in (("cache", "its own sampler"), ("both", "a better solver")):
        there = [(choice, choice.ways[way]) for choice in answer.choices if way in choice.ways]
        if not there:
            continue
        gains = sorted(held.mean for _, held in there)
        ahead = [(choice, held) for choice, held in there if choice.clear and choice.winners == (way,)]
        text = f"The best caches on {whose} are {gains[0]:+.1f} to {gains[-1]:+.1f} dB against the best plain solver with as many evaluations"
        if not ahead:
            said.append(f"{text}, and nowhere ahead of everything else beyond noise.")
            continue
        at = _listed([f"{choice.count} ({written(held.lane)})" for choice, held in ahead])
        said.append(f"{text}, and ahead of everything else beyond noise at about {at}.")
    return " ".join(said)


def claims(found: Mapping[str, Results]) -> Iterator[list[str]]:
    """Each claim of the papers, and where it has which verdict, by either distance."""
    both = [judged(found, figure) for figure in ("psnr", "truth")]
    for paper in dict.fromkeys(paper for one in both for paper in one):
        yield [paper, *("; ".join(f"**{finding}** on {_places(places)}" for finding, places in one.get(paper, {}).items()) for one in both)]


def judged(found: Mapping[str, Results], figure: str) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Return claim -> verdict -> model -> the folders of results that say so."""
    every: dict[str, dict[str, dict[str, list[str]]]] = {}
    for name, results in found.items():
        for verdict in verdicts(results, figure=figure):
            names = every.setdefault(verdict.paper, {}).setdefault(verdict.finding, {}).setdefault(model_of(results.family), [])
            names += [name] * (name not in names)
    return every


def _places(places: Mapping[str, Sequence[str]]) -> str:
    return _listed([f"{model} ({', '.join(f'[{name}](evidence/claims.md#{name})' for name in names)})" for model, names in places.items()])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
