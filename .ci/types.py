"""Run mypy --strict on the package as it is installed.

The top-level folders are mapped to `foreseer` and its subpackages by setuptools. mypy does not read that mapping, so the tree is laid out for it once more.
"""

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

root = Path(__file__).resolve().parent.parent
mapping = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
with tempfile.TemporaryDirectory() as folder:
    for package, source in sorted(mapping.items()):
        shutil.copytree(root / source, Path(folder, *package.split(".")), ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    config = ["--config-file", str(root / "pyproject.toml"), "--cache-dir", str(root / ".mypy_cache")]
    sys.exit(subprocess.run([sys.executable, "-m", "mypy", "--strict", *config, "-p", "foreseer"], cwd=folder).returncode)
