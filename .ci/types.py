"""Run mypy --strict on the package as it is installed, and on the recipes of the zoo, which are not."""

import subprocess
import sys
import tempfile
from pathlib import Path

from layout import ROOT, lay_out

with tempfile.TemporaryDirectory() as folder:
    lay_out(Path(folder), recipes=True)
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    sys.exit(subprocess.run([sys.executable, "-m", "mypy", "--strict", *config, "-p", "foreseer"], cwd=folder).returncode)
