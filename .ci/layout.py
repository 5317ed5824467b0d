"""The tree as it is imported: the top-level folders are mapped to `foreseer` and its subpackages by
setuptools, which few tools read.
"""

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def lay_out(folder: Path, *, recipes: bool = False) -> None:
    """Copy the sources into a folder as they would be installed; with ``recipes``, the zoo's recipes too."""
    mapping: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    for package, source in mapping.items():
        nested = {Path(other).name for other in mapping.values() if Path(other).parent == Path(source)}
        ignore = shutil.ignore_patterns("__pycache__", "*.safetensors", *nested, *(() if recipes else ("recipes",)))
        shutil.copytree(ROOT / source, folder.joinpath(*package.split(".")), ignore=ignore, dirs_exist_ok=True)
