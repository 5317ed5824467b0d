"""Laws of files that say what they are: read to the digit, or refused in one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from foreseer.document import Document, plain, refuse_other_settings, structured
from foreseer.errors import OptionError

FILE = Document(format="foreseer thing 1", made_by="`foreseer thing`", again="make it again")


@attrs.frozen
class Part:
    number: int
    value: float = math.nan


@attrs.frozen
class Thing:
    parts: tuple[Part, ...]
    by_number: Mapping[int, Part]
    first: Part | None = None
    worst: float | None = None
    facts: Mapping[str, object] = attrs.field(factory=dict)


THING = Thing((Part(1, 0.1), Part(2, math.inf)), {3: Part(3, 1 / 3)}, facts={"list": [1, None], "text": "é"})


def test_what_is_written_is_read_to_the_digit(tmp_path: Path) -> None:
    """Law: tuples, numbers as keys, infinities and what is not known come back as they were."""
    assert FILE.load(FILE.save(tmp_path / "t.json", THING), Thing) == THING
    assert math.isnan(structured(Part, plain(Part(1))).value)
    assert "NaN" not in json.dumps(plain(Part(1)))


def test_what_a_later_version_added_is_left_out(tmp_path: Path) -> None:
    later = {"later": 1, "first": {"number": 1, "value": 0, "later": 2}}
    file = FILE.save(tmp_path / "t.json", {**plain(THING), **later})
    assert attrs.evolve(FILE.load(file, Thing), first=None) == THING


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON: .*; write the name of a file that `foreseer thing` made"),
        (b"\xff\xfe\x00", "is not JSON: "),
        ("[]", "says it is 'nothing', and this foreseer reads 'foreseer thing 1'; make it again"),
        ('{"format": "foreseer thing 2"}', "says it is 'foreseer thing 2'"),
        ('{"format": ["odd"]}', r"says it is \['odd'\]"),
        ('{"format": "foreseer thing 1", "parts": []}', "was changed since it was written: .* says None"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str | bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(OptionError, match=f"^thing '.*t.json' {says}"):
        FILE.load(file, Thing)


def test_what_is_missing_changed_or_of_another_content_is_refused(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.json", tmp_path):
        with pytest.raises(OptionError, match=r"cannot be read: .*; write the name of a file that"):
            FILE.read(missing)
    file = FILE.save(tmp_path / "t.json", THING)
    file.write_text(file.read_text().replace("0.1", "0.2"))
    with pytest.raises(OptionError, match=r"has checksum [0-9a-f]{12}, it says [0-9a-f]{12}; make it again"):
        FILE.read(file)
    whole = plain(THING)
    for content in ({"parts": []}, {**whole, "parts": 3}, {**whole, "by_number": {"x": {"number": 1}}}):
        with pytest.raises(OptionError, match=r"has another content than 'foreseer thing 1': .*; make"):
            FILE.load(FILE.save(file, content), Thing)


def test_files_of_earlier_versions_are_turned_into_todays(tmp_path: Path) -> None:
    later = attrs.evolve(FILE, earlier=lambda content: {**content.pop("inside", {}), **content})
    old = {"inside": plain(THING)}
    seal = json.loads(FILE.save(tmp_path / "t.json", THING).read_text())["sha256"]
    (tmp_path / "old.json").write_text(json.dumps({"format": FILE.format, "sha256": seal, **old}))
    assert later.load(tmp_path / "old.json", Thing) == later.load(tmp_path / "t.json", Thing) == THING


def test_what_was_begun_otherwise_is_refused_with_what_differs(tmp_path: Path) -> None:
    """Law: tuples and lists are the same; what one side lacks is None."""
    FILE.resume(tmp_path / "t.json", {"a": (1, 2), "b": None})
    FILE.resume(tmp_path / "t.json", {"a": [1, 2]})
    with pytest.raises(OptionError, match=r"other settings: a was \[1, 2\], is 3; c was None, is 4; write"):
        FILE.resume(tmp_path / "t.json", {"a": 3, "c": 4})
    assert FILE.read(tmp_path / "t.json") == {"a": [1, 2], "b": None}
    refuse_other_settings("it", {"a": 1}, {"a": 1, "b": None})
