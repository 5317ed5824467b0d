"""The documentation site: it builds without a warning, needs no network, and nothing that can be named is left out."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def text_of(page):
    return (DOCS / page).read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: that of `make docs`, which runs these tests, or one that is built for them. In a process of its own, since
    mkdocs' dependencies warn where the tests allow no warning.
    """
    if built := os.environ.get("FORESEER_SITE"):
        return ROOT / built
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Links(HTMLParser):
    """The ids and links of a page, and what it loads from elsewhere."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("script", "img", "link", "iframe", "source"):
            self.loads += [found[key] for key in ("src", "href") if found.get(key)]


@pytest.fixture(scope="module")
def pages(site):
    found = {}
    for path in site.rglob("*.html"):
        parser = Links()
        parser.feed(path.read_text())
        found[path] = parser
    return found


def test_every_link_and_anchor_inside_of_the_site_resolves(site, pages):
    for path, page in pages.items():
        if path.name == "404.html":  # its links are absolute: it may be served from anywhere
            continue
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.partition("#")
            file = (path.parent / target).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            assert file.exists(), (path.relative_to(site), link)
            if anchor and file in pages:
                assert anchor in pages[file].ids, (path.relative_to(site), link)


def test_the_site_loads_nothing_from_the_network(site, pages):
    for path, page in pages.items():
        assert not [url for url in page.loads if re.match(r"(https?:)?//", url)], path
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_equations_are_mathml_and_nothing_is_left_of_their_source(site):
    page = (site / "policies" / "taylorseer" / "index.html").read_text()
    assert page.count("<math") == len(re.findall(r"\$\$.*?\$\$|\$.+?\$", text_of("policies/taylorseer.md"), re.DOTALL)) > 0
    assert not [path for path in site.rglob("*.html") if "arithmatex" in path.read_text()]


def test_no_marker_is_left_on_a_page_and_none_of_the_sources_is_published(site):
    marker = re.compile(r"<!-- (options|citation|output|help|checks|picture|include)\b")
    assert not [path for path in site.rglob("*.html") if marker.search(path.read_text())]
    assert not (site / "_build").exists()


def test_every_option_of_every_built_in_policy_is_on_its_page(site):
    from foreseer import list_plugins
    from foreseer.registry import signature_of

    for listing in list_plugins():
        if listing.distribution == "foreseer":
            page = (site / "policies" / listing.name / "index.html").read_text()
            for option in signature_of(listing.load()).parameters:
                assert f"<code>{option}</code>" in page, (listing.name, option)


@pytest.mark.parametrize("heading", ["## What it does", "## When to use it", "## Options"])
def test_every_policy_page_has_the_same_parts(heading):
    from foreseer import list_plugins

    for listing in list_plugins():
        if listing.distribution == "foreseer" and (listing.name, heading) != ("none", "## What it does"):
            assert heading in text_of(f"policies/{listing.name}.md"), listing.name


@pytest.mark.parametrize("part", ["## When", "## What it", "**`None`:**", "## Example", "## What is refused", "```python"])
def test_every_hook_has_a_page_with_every_part(part):
    from foreseer import ObserverSpecs, PolicySpecs

    for specs in (PolicySpecs, ObserverSpecs):
        for name, hook in vars(specs).items():
            if not name.startswith("_"):
                assert "Args:" in hook.__doc__, name
                page = text_of(f"hooks/{name}.md")
                assert f"::: {specs.__module__}.{specs.__name__}.{name}" in page
                assert part in page, name
                assert f"({name}.md)" in text_of("hooks/index.md")


def test_every_check_of_the_kit_is_on_its_page(site):
    from foreseer.testing import CHECKS

    page = (site / "conformance" / "index.html").read_text()
    for check in CHECKS:
        assert f'id="{check.name}"' in page


def test_every_command_has_a_section_with_its_help():
    installed = {entry.name for entry in distribution("foreseer").entry_points if entry.group == "foreseer.commands"}
    page = text_of("cli.md")
    assert set(re.findall(r"^<!-- help: (\w+) -->$", page, re.MULTILINE)) == installed
    assert set(re.findall(r"^## foreseer (\w+)$", page, re.MULTILINE)) == installed


def test_every_group_of_entry_points_is_documented_and_every_built_in_has_a_page():
    mine = [entry for entry in distribution("foreseer").entry_points if entry.group.startswith("foreseer.")]
    assert {entry.name for entry in mine if entry.group == "foreseer.policies"} == {path.stem for path in (DOCS / "policies").glob("*.md")} - {"index"}
    shipping = text_of("write/ship.md")
    for group in {"foreseer.policies", "foreseer.observers", "foreseer.contract"} | {entry.group for entry in mine}:
        assert f'[project.entry-points."{group}"]' in shipping


def test_every_public_name_is_in_the_reference(pages, site):
    import foreseer

    ids = {name.rpartition(".")[2] for page in pages.values() for name in page.ids}
    for name in foreseer.__all__:
        if not inspect.ismodule(getattr(foreseer, name)):
            assert name in ids, name


def pictures():
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "_build" / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("drawn", "policy"), [("full", "none"), ("taylorseer", "taylorseer"), ("cg_taylor", "cg_taylor"), ("speca", "speca")])
def test_the_drawings_cost_what_a_session_counts(drawn, policy):
    """Row 2 swings, so that a gate rejects it; the others are lines."""
    import foreseer
    from foreseer.adapters import ArrayBackbone

    drawing = pictures()
    rows = np.arange(drawing.ROWS)[:, None]
    host = ArrayBackbone(lambda site, t: np.where(rows == drawing.REJECTED, 3.0 * (-1) ** t, 1.0 + rows + t), depth=drawing.BLOCKS)
    _, report = foreseer.sample(host, None, range(6), policy=policy, inputs=lambda x, t: int(t), update=lambda x, output, index: output)
    assert report.outcomes[3].block_rows == drawing.block_rows(drawn)
