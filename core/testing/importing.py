"""A program that imports one module and says what that changed, as the last line of its output, in JSON. It is run in a process of its own."""

__all__ = ["SCRIPT"]

SCRIPT = """
import contextlib, importlib, importlib.util, io, json, sys
task = json.loads(sys.argv[1])
sys.path[:] = task["path"]
from foreseer.testing.surroundings import changed_since, snapshot

before, out = snapshot(), io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    try:
        importlib.import_module(task["module"])
    except ModuleNotFoundError as error:
        if not task["file"] or (error.name or "") not in (task["module"], task["module"].split(".")[0]):
            raise
        spec = importlib.util.spec_from_file_location(task["module"], task["file"])
        module = importlib.util.module_from_spec(spec)
        sys.modules[task["module"]] = module
        spec.loader.exec_module(module)
changed = changed_since(before)
if out.getvalue().strip():
    changed.append(f"the output: {out.getvalue().strip().splitlines()[0]!r}")
print(json.dumps(changed))
"""
"""The program; its only argument is JSON: module, file (where it is, should it not be importable by name) and path (``sys.path``)."""
