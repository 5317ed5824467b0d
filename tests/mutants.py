"""Mutants: a file of the engine or a policy with one small fault, which the quick tests must notice.

``python tests/mutants.py [FILE ...]`` makes them by cosmic-ray's operators and by leaving out statements, inside of
functions, and runs the tests that ``mutants.toml`` names for the file. cosmic-ray's own runner begins a process that
imports torch for each; this one forks a process that has collected the tests, and exchanges the code of functions.
mutmut passes over decorated functions, which are all of the hooks.
"""

import ast
import gc
import importlib
import os
import re
import resource
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())


def mutants(source: str) -> Iterator[str]:
    """Sources with one fault each."""
    for name in operator_names():
        occurrence = 0
        while re.fullmatch(f"core/({'|'.join(TABLE['operators'])})", name) and (mutant := mutate_code(source, get_operator(name)(), occurrence)):
            occurrence += 1
            yield mutant
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        said = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        indent = lines[node.lineno - 1][: node.col_offset] if isinstance(node, ast.stmt) else ""
        if isinstance(node, (ast.Expr, ast.AugAssign, ast.Raise, ast.Return)) and not said and indent.isspace():
            yield "".join([*lines[: node.lineno - 1], indent + "pass\n", *lines[node.end_lineno :]])


def code_of(source: str, path: Path) -> dict[str, CodeType]:
    """The code of all functions, by name and line."""
    found, todo = {}, [compile(source, str(path), "exec")]
    while todo:
        code = todo.pop()
        found[f"{code.co_qualname}:{code.co_firstlineno}"] = code
        todo += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return found


class Mutating:
    """Runs the collected tests on each mutant of a file, those first that killed one before."""

    def __init__(self, file: str) -> None:
        self.file, self.path, self.counts, self.pipe = file, ROOT / file, Counter[str](), (0, 0)

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile(
            "mutants", settings.get_profile("foreseer"), max_examples=20, phases=[Phase.explicit, Phase.generate], derandomize=True, database=None
        )
        settings.load_profile("mutants")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            os.write(self.pipe[1], report.nodeid.encode())
            os._exit(1)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        source, began = self.path.read_text(), time.monotonic()
        known, before = TABLE["equivalent"].get(self.file, {}), code_of(source, self.path)
        importlib.import_module(f"foreseer.{self.path.stem}" if self.file.startswith("core/") else f"foreseer.policies.{self.path.stem}")
        of = {f: f"{f.__code__.co_qualname}:{f.__code__.co_firstlineno}" for f in gc.get_objects() if type(f) is FunctionType}
        functions = {f: name for f, name in of.items() if f.__code__.co_filename == str(self.path)}
        assert self.run(session, {}) == "survived", "the tests fail without a fault"
        for mutant in mutants(source):
            try:
                after = code_of(mutant, self.path)
            except SyntaxError:  # the * of keywords is no operator
                continue
            codes = {f: after[name] for f, name in functions.items() if name in after and after[name] != before.get(name)}
            at, (old, new) = next(found for found in enumerate(zip(source.splitlines(), mutant.splitlines(), strict=False)) if len(set(found[1])) > 1)
            what = f"{old.strip()} -> {new.strip()}"
            found = "outside of functions" if not codes else "equivalent" if what in known else self.run(session, codes)
            self.counts[found] += 1
            if found == "survived":
                print(f"{self.file}:{at + 1}: {what}", flush=True)
        print(self.file, dict(self.counts), f"{time.monotonic() - began:.0f} s", flush=True)
        return True

    def run(self, session: pytest.Session, codes: dict[FunctionType, CodeType]) -> str:
        self.pipe = os.pipe()
        if (pid := os.fork()) == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (TABLE["seconds"],) * 2)
            signal.alarm(20 * TABLE["seconds"])  # should it wait for ever
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            for function, code in codes.items():
                function.__code__ = code
            for item in session.items:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            os._exit(0)
        os.close(self.pipe[1])
        with os.fdopen(self.pipe[0]) as told:
            killer = told.read()
        session.items.sort(key=lambda item: item.nodeid != killer)
        return "killed" if os.waitpid(pid, 0)[1] else "survived"


def main() -> int:
    """Try the files that are named, or all; 1 if more than one in twenty survives."""
    os.environ |= {"FORESEER_QUICK": "1"}
    sums = Counter[str]()
    for file in sys.argv[1:] or TABLE["files"]:
        tests = [f"tests/test_{name}" if "::" in name else f"tests/test_{name}.py" for name in TABLE["files"][file]]
        mutating = Mutating(file)
        pytest.main(["-s", "-p", "no:cacheprovider", "-p", "no:terminal", *tests], plugins=[mutating])
        sums += mutating.counts
    share = sums["killed"] / max(1, sums["killed"] + sums["survived"])
    print(f"{share:.1%} killed of those that are not equivalent")
    return int(share < 0.95)


if __name__ == "__main__":
    sys.exit(main())
