"""Hold the floors, of which each imports only what lies below, on the package as it is installed; see
pyproject.toml.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from layout import ROOT, lay_out

with tempfile.TemporaryDirectory() as folder:
    lay_out(Path(folder))
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", str(ROOT / "pyproject.toml")]
    sys.exit(subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": folder}).returncode)
