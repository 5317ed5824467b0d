"""ComfyUI with its own frontend, in a process and a folder of its own: ``python webui.py BASE PORT``.

A base folder of its own holds its models, outputs and custom nodes: ours, put there as a user puts it, and one that
stands for a loader of checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import runpy
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import engine

FRONTEND = "comfyui-frontend-package==1.32.9"
"""What ComfyUI 0.3.75 asks for."""
QUIET = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False, "Comfy.VueNodes.Enabled": False}
"""Settings of the UI: no greeting, nothing that lies over the workflow."""
LOADER = """
import sys
sys.path.insert(0, {tests!r})
import torch
from workflows import LoadTiny
from tiny_comfy import patcher_of

torch.set_num_threads(1)
LoadTiny.patcher = patcher_of("Flux")
NODE_CLASS_MAPPINGS = {{"LoadTiny": LoadTiny}}
NODE_DISPLAY_NAME_MAPPINGS = {{"LoadTiny": "Load Tiny Flux"}}
"""


def frontend() -> Path:
    """Return the folder of ComfyUI's frontend, downloaded where it is not there yet."""
    cache = engine.folder().parents[1] / "frontend"
    if not (cache / "done").exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(cache), FRONTEND]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(cache.glob("comfyui_frontend_package-*.whl"))) as wheel:
            wheel.extractall(cache)
        (cache / "done").touch()
    return cache / "comfyui_frontend_package" / "static"


@contextlib.contextmanager
def serving(base: Path) -> Iterator[str]:
    """Start it, and yield its address."""
    for name in ("custom_nodes", "input", "output", "models/diffusion_models", "models/text_encoders", "models/vae"):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "user" / "default").mkdir(parents=True, exist_ok=True)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(QUIET))
    subprocess.run([sys.executable, "-m", "foreseer_comfyui", str(base)], check=True, stdout=subprocess.DEVNULL)
    (base / "custom_nodes" / "tiny.py").write_text(LOADER.format(tests=str(Path(__file__).parent)))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with (base / "log.txt").open("w") as log:
        process = subprocess.Popen([sys.executable, __file__, str(base), str(port)], stdout=log, stderr=log)
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/object_info/ForeseerPolicy", timeout=60)
                    break
                if process.poll() is not None:
                    raise RuntimeError((base / "log.txt").read_text()[-3000:])
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def main() -> None:
    base, port = sys.argv[1:]
    where = engine.start()
    sys.argv = ["main.py", "--cpu", "--port", port, "--base-directory", base, "--front-end-root", str(frontend()), "--disable-api-nodes", "--dont-print-server"]
    runpy.run_path(str(where / "main.py"), run_name="__main__")


if __name__ == "__main__":
    main()
