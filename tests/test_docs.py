"""The examples of README and docs run as written, in the order in which a reader meets them, and say what they are said to print."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- test: (?P<name>\w+) -->\n```python\n(?P<code>.*?)```(?:\n+```\n(?P<prints>.*?)```)?", re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/write_a_policy.md"])
def test_examples_run_as_written(page, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    blocks = list(BLOCK.finditer((ROOT / page).read_text()))
    assert len(blocks) >= 2
    for block in blocks:
        capsys.readouterr()
        exec(compile(block["code"], f"{page}:{block['name']}", "exec"), names)
        printed = capsys.readouterr().out
        if block["prints"] is not None:
            assert printed.strip() == block["prints"].strip(), block["name"]


def test_the_gate_of_the_readme_is_twenty_lines():
    code = next(b["code"] for b in BLOCK.finditer((ROOT / "README.md").read_text()) if b["name"] == "gate")
    gate = code[code.index("class CosineGate") : code.index("with foreseer.attach")]
    assert len([line for line in gate.splitlines() if line.strip()]) <= 20


def test_every_hook_is_documented_with_arguments_and_result():
    from foreseer import ObserverSpecs, PolicySpecs

    for specs in (PolicySpecs, ObserverSpecs):
        for name, hook in vars(specs).items():
            if not name.startswith("_"):
                assert "Args:" in hook.__doc__, name
                assert name in (ROOT / "docs" / "write_a_policy.md").read_text(), f"{name} is not in the tutorial"


def test_every_built_in_policy_is_on_the_page_of_policies():
    from foreseer import list_plugins

    text = (ROOT / "docs" / "policies.md").read_text()
    for listing in list_plugins():
        if listing.distribution == "foreseer" and listing.name not in ("none", "taylor"):
            assert f"`{listing.name}`" in text
