"""The examples of README and docs run as written, in the order in which a reader meets them, and say what they are said to print."""

import doctest
import re
import shlex
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(str(p.relative_to(ROOT)) for p in [ROOT / "README.md", *DOCS.rglob("*.md")])
FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^ *```(?P<kind>\w*)\n(?P<code>.*?)^ *```$(?P<prints>\n\n? *```(?:text)?\n.*?^ *```$)?",
    re.DOTALL | re.MULTILINE,
)
GROUPS = {"foreseer.policies", "foreseer.observers", "foreseer.contract", "foreseer.commands", "foreseer.presets", "foreseer.workloads", "foreseer.measures"}
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def fences(page, *kinds):
    """The fenced blocks of a page; `models.md` is a generated table without any."""
    return [match for match in FENCE.finditer((ROOT / page).read_text()) if match["kind"] in kinds]


def printed_after(block):
    """What the page says that a python block prints, or None."""
    return None if block["prints"] is None else "\n".join(block["prints"].strip().splitlines()[1:-1]).strip()


def tiny_pipeline():
    """What `pipe` stands for on the pages: a pipeline that takes a prompt. Tiny, with random weights."""
    from tiny import TINY

    kind = TINY["FluxPipeline"]
    inner = kind.build()

    class Pipeline:
        components, scheduler, transformer = inner.components, inner.scheduler, inner.transformer

        def __call__(self, prompt):
            return SimpleNamespace(images=list(kind.call(inner, steps=6)))

    return Pipeline()


def run_pycon(code, names, where):
    """Run an interactive session; what differs is printed by doctest and counted."""
    example = doctest.DocTestParser().get_doctest(code, names, where, where, 0)
    return doctest.DocTestRunner(optionflags=FLAGS).run(example, clear_globs=False)


@pytest.mark.filterwarnings("ignore:__array__")  # diffusers hands tensors to numpy
@pytest.mark.parametrize("page", [page for page in PAGES if fences(page, "python", "pycon")])
def test_examples_run_as_written(page, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = fences(page, "python", "pycon")
    names: dict[str, object] = {"__name__": "example"}
    if any(re.search(r"\bpipe\b", block["code"]) for block in blocks):
        names["pipe"] = tiny_pipeline()
    for block in blocks:
        code = block["code"]
        if (block["note"] or "").startswith("not run: "):
            compile(code, page, "exec")
            assert page == "docs/distributed.md", "a block that cannot run is not in the docs"
            continue
        capsys.readouterr()
        torch.manual_seed(0)  # what a block prints does not depend on how much noise the blocks above it have drawn
        if block["kind"] == "pycon":
            result = run_pycon(code, names, page)
            assert not result.failed, capsys.readouterr().out
        else:
            exec(compile(code, page, "exec"), names)
            expected = printed_after(block)
            if expected is not None:
                assert capsys.readouterr().out.strip() == expected, code


def test_a_wrong_output_or_traceback_would_be_noticed(capsys):
    block = FENCE.search("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    assert printed_after(block) == "2"
    assert run_pycon(">>> 1 + 1\n3\n", {}, "here").failed
    assert run_pycon(">>> 1 / 0\nTraceback (most recent call last):\nZeroDivisionError: another\n", {}, "here").failed
    capsys.readouterr()


def commands():
    """Every line of README and docs that calls foreseer, in a shell block, a console block or an indented one."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        lines = [line for block in fences(page, "sh", "console") for line in block["code"].splitlines()]
        lines += [line for line in FENCE.sub("", text).splitlines() if line.startswith("    foreseer ")]
        lines += re.findall(r"^<!-- output: (.*?) -->$", text, re.MULTILINE)
        lines += [f"foreseer {command} --help" for command in re.findall(r"^<!-- help: (\w*) +-->$", text, re.MULTILINE)]
        found += [(page, line.strip().removeprefix("$ ")) for line in lines if line.strip().removeprefix("$ ").startswith("foreseer ")]
    return found


@pytest.mark.usefixtures("example_plugins")
def test_every_command_in_the_docs_is_one_with_options_that_exist(tmp_path, monkeypatch):
    import typer

    from foreseer import list_plugins
    from foreseer.__main__ import app
    from foreseer.registry import parse_policy
    from foreseer.schedule_plan import Budget, SchedulePlan, Signature

    schedules = {count: Budget(steps=tuple(range(count)), error=0.1) for count in range(1, 50)}
    SchedulePlan(signature=Signature(num_steps=50), predictor="taylor", target="last_block", budgets=schedules, chosen=14).save(tmp_path / "plan.json")
    monkeypatch.chdir(tmp_path)  # where readers have made a plan
    group = typer.main.get_command(app)
    own = {listing.name for listing in list_plugins() if listing.distribution == "foreseer"}
    found = commands()
    assert len(found) >= 15
    for page, line in found:
        words = shlex.split(line, comments=True)[1:]
        try:
            with group.make_context("foreseer", words, resilient_parsing=False) as context:
                name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
                command.make_context(name, list(rest), parent=context)
        except typer.Exit as done:  # --help and --version end here
            if done.exit_code:
                pytest.fail(f"{page}: {line}")
        for word in words:
            if word.partition(":")[0] in own and "=" in word:
                parse_policy(word)


def test_outputs_of_commands_in_the_readme_are_what_the_commands_print(monkeypatch):
    """Compared word by word, since a table is as wide as the terminal it was copied from."""
    from typer.testing import CliRunner

    from foreseer.__main__ import app

    text = (ROOT / "README.md").read_text()
    shown = re.findall(
        r"^    (foreseer (?:estimate|show|policies)\b[^\n#]*?) *(?:#[^\n]*)?$(?:\n    [^\n]*)*\n\n```(?:text)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    )
    assert shown
    for command, printed in shown:
        result = CliRunner().invoke(app, shlex.split(command)[1:], env={"COLUMNS": "100", "FORESEER_NO_PLUGINS": "1"})
        assert result.exit_code == 0, result.output
        assert sorted(re.findall(r"[\w.:=-]+", printed)) == sorted(re.findall(r"[\w.:=-]+", result.stdout)), command


@pytest.mark.parametrize("page", [page for page in PAGES if fences(page, "toml")])
def test_toml_parses_and_names_groups_that_exist(page):
    for block in fences(page, "toml"):
        groups = tomllib.loads(block["code"]).get("project", {}).get("entry-points", {})
        assert set(groups) <= GROUPS


def test_no_kind_of_block_escapes_these_tests():
    allowed = {"python", "pycon", "sh", "console", "toml", "text", "yaml", "bibtex", ""}
    for page in PAGES:
        for block in FENCE.finditer((ROOT / page).read_text()):
            assert block["kind"] in allowed, (page, block["kind"])


def test_the_gate_of_the_readme_is_twenty_lines():
    code = next(block["code"] for block in fences("README.md", "python") if "class CosineGate" in block["code"])
    gate = code[code.index("class CosineGate") : code.index("with foreseer.attach")]
    assert len([line for line in gate.splitlines() if line.strip()]) <= 20


def test_the_gate_of_the_tutorial_is_short_and_imports_only_foreseer():
    code = next(block["code"] for block in fences("docs/write/gate.md", "python") if block["note"] == "the gate of the tutorial")
    lines = [line for line in code.splitlines() if line.strip()]
    imports = [line for line in lines if re.match(r"(from|import) ", line)]
    assert len(lines) - len(imports) <= 25
    assert all(line.startswith("from foreseer import ") for line in imports)


def test_the_gate_of_the_tutorial_keeps_the_contract():
    """A reader copies it, so it is held to the laws of the kit."""
    from foreseer.policies import taylor
    from foreseer.testing import check_policy

    names: dict[str, object] = {}
    exec(next(block["code"] for block in fences("docs/write/gate.md", "python") if block["note"] == "the gate of the tutorial"), names)
    results = check_policy(lambda: (names["Sentry"](0.02, 4), taylor(max_order=1)))
    assert not [result for result in results if result.status == "failed"]
