"""Print constraints that pin every dependency to the lowest version that pyproject.toml claims.

What the package and its extras need is pinned; what `docs` and `dev` need is not.
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
asked = [*project["dependencies"]]
for extra in extras.keys() - {"docs", "dev"}:
    asked += extras[extra]
lowest: dict[str, str] = {}
for requirement in asked:
    if re.match(r"foreseer\[", requirement):  # one extra asks for another
        continue
    match = re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", requirement)
    if match is None:
        raise SystemExit(f"{requirement!r} in pyproject.toml claims no lowest version; write name>=version")
    lowest.setdefault(match[1], match[2])
    if lowest[match[1]] != match[2]:
        both = f">={lowest[match[1]]} and >={match[2]}"
        raise SystemExit(f"pyproject.toml claims {match[1]}{both}; write one of them")
print(*(f"{name}=={version}" for name, version in sorted(lowest.items())), sep="\n")
