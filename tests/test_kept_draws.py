"""The laws of draws that are kept: each has a file of its own, and what is there is not drawn again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from foreseer.bench.kept_draws import Draw, KeptDraws
from foreseer.document import Document
from foreseer.errors import OptionError

FILE = Document(format="test 1", made_by="a test", again="write another folder", sealed=False)
NAMES = st.text(st.characters(codec="utf-8"), max_size=300)


def a_draw(name: str) -> Draw:
    return Draw(tensors={"name": torch.tensor(list(name.encode()) or [0], dtype=torch.int64)}, facts={"name": name})


@given(names=st.lists(NAMES, min_size=2, max_size=4, unique=True), ahead=NAMES)
@example(names=["step 5 looked at", "step 7 looked at"], ahead="LONGSPEC" * 40)
@example(names=["A", "a", "a_", "a/"], ahead="")
def test_two_names_of_any_length_never_share_a_file(names: list[str], ahead: str) -> None:
    """Law: asked for in whatever order, also by another process, each name gives its own draw."""
    names = [ahead + name for name in names]
    with tempfile.TemporaryDirectory() as folder:
        first = KeptDraws(Path(folder), {}, FILE)
        for name in names:
            first.draw(name, lambda name=name: a_draw(name))
        assert first.made == len(names)
        files = {path.name.lower() for path in (Path(folder) / "draws").iterdir()}
        assert len(files) == len(names)
        assert max(map(len, files)) < 120
        again = KeptDraws(Path(folder), {}, FILE)
        for name in reversed(names):
            found = again.draw(name, lambda: pytest.fail("it is there"))
            assert found.facts == {"name": name}
            assert found.tensors["name"].equal(a_draw(name).tensors["name"])


def test_a_file_that_was_renamed_is_refused(tmp_path: Path) -> None:
    """Law: what is kept says what it is."""
    kept = KeptDraws(tmp_path, {}, FILE)
    for name in ("one", "two"):
        kept.draw(name, lambda name=name: a_draw(name))
    one, two = sorted((tmp_path / "draws").iterdir())
    one.rename(two)
    with pytest.raises(OptionError, match="holds 'one', and 'two' was asked for; delete it"):
        kept.draw("two", lambda: a_draw("two"))
