"""Puts the node folder into a ComfyUI: ``python -m foreseer_comfyui /path/to/ComfyUI``."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "custom_node"


def main() -> None:
    """Copy the folder. What an earlier version put there is replaced."""
    parser = argparse.ArgumentParser(prog="python -m foreseer_comfyui", description=__doc__)
    parser.add_argument("comfyui", type=Path, help="The folder of ComfyUI, which has custom_nodes in it.")
    given: Path = parser.parse_args().comfyui
    nodes = given / "custom_nodes"
    if not nodes.is_dir():
        sys.exit(f"{given} has no folder custom_nodes; write the folder of a ComfyUI")
    shutil.rmtree(nodes / "foreseer", ignore_errors=True)
    shutil.copytree(SOURCE, nodes / "foreseer", ignore=shutil.ignore_patterns("__pycache__"))
    print(f"wrote {nodes / 'foreseer'}; start ComfyUI again, and look for Foreseer in the node list")


if __name__ == "__main__":
    main()
