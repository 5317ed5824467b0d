"""Hold a tag to what the project says of its version: `python .ci/release.py v0.1.0`. Prints the version."""

import re
import sys
import tomllib
from pathlib import Path

root = Path(__file__).parent.parent
version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
cited = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(), re.MULTILINE)
heading = rf"^## \[?{re.escape(version)}\]? - \d{{4}}-\d\d-\d\d$"
faults = []
if len(sys.argv) != 2 or sys.argv[1] != f"v{version}":
    said = " ".join(sys.argv[1:]) or "missing"
    faults.append(f"the tag is {said}, and pyproject.toml has version {version}; tag v{version}")
if cited is None or cited[1] != version:
    faults.append(f"CITATION.cff has version {cited[1] if cited else 'none'}; write {version}")
if not re.search(heading, (root / "CHANGELOG.md").read_text(), re.MULTILINE):
    faults.append(f"CHANGELOG.md has no section of this release; write ## {version} - YEAR-MONTH-DAY")
if faults:
    raise SystemExit("\n".join(faults))
print(version)
