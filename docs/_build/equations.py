"""Equations: an mkdocs hook that turns what `pymdownx.arithmatex` found between dollar signs into MathML, so
that no page needs a script for it.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FOUND = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace each equation. Browsers draw MathML themselves."""

    def drawn(match: re.Match[str]) -> str:
        display = "block" if match["tag"] == "div" else "inline"
        return f'<{match["tag"]} class="equation">{convert(html.unescape(match["latex"]), display=display)}</{match["tag"]}>'

    return FOUND.sub(drawn, content)
