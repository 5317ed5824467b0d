"""A program that imports one module and says what that changed, as the last line of its output, in JSON. It is run in a process of its own."""

__all__ = ["SCRIPT"]

SCRIPT = """
import contextlib, importlib, importlib.util, io, json, os, random, sys
task = json.loads(sys.argv[1])
sys.path[:] = task["path"]
import numpy, torch, foreseer

def state():
    return {
        "the random numbers of random": str(hash(random.getstate())),
        "the random numbers of numpy": str(numpy.random.get_state()[1].tolist()[:8]) + str(numpy.random.get_state()[2]),
        "the random numbers of torch": str(hash(bytes(torch.get_rng_state().numpy().tobytes()))),
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's default device": str(torch.get_default_device()) if hasattr(torch, "get_default_device") else "",
        "torch's number of threads": str(torch.get_num_threads()),
        "torch's grad mode": str(torch.is_grad_enabled()),
        "torch's deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "torch's precision of matrix products": torch.get_float32_matmul_precision(),
        "torch.backends.cudnn.benchmark": str(torch.backends.cudnn.benchmark),
        "CUDA, which was initialised": str(torch.cuda.is_initialized()),
        "the environment": str(sorted(os.environ.items())),
        "the working folder": os.getcwd(),
    }

before, out = state(), io.StringIO()
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
after = state()
changed = [name for name in before if before[name] != after[name]]
if out.getvalue().strip():
    changed.append(f"the output: {out.getvalue().strip().splitlines()[0]!r}")
print(json.dumps(changed))
"""
"""The program; its only argument is JSON: module, file (where it is, should it not be importable by name) and path (``sys.path``)."""
