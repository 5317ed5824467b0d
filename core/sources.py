"""What a plugin says of itself, read from its source without running it.

`foreseer policies` lists whatever is installed. Importing fifty packages for the first line of their
docstrings would take seconds, and would run the code of packages that nobody asked for.
"""

from __future__ import annotations

import ast
import inspect
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

__all__ = ["docstring_of", "first_paragraph", "module_exists"]

FOLLOWED = 4
"""How many re-exports (``from .gate import gate`` in an ``__init__``) are followed."""


def docstring_of(target: str) -> str:
    """Return the docstring of ``"module:attribute"``; empty where the source does not tell."""
    module, _, attribute = target.partition(":")
    for _ in range(FOLLOWED):
        spec = _find(module)
        tree = _parse(spec)
        if spec is None or tree is None:
            return ""
        for node, after in zip(reversed(tree.body), [None, *reversed(tree.body)], strict=False):  # what is defined last counts
            if isinstance(node, ast.Assign) and attribute in (t.id for t in node.targets if isinstance(t, ast.Name)):
                said = after.value if isinstance(after, ast.Expr) else None
                return inspect.cleandoc(said.value) if isinstance(said, ast.Constant) and isinstance(said.value, str) else ""
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == attribute:
                return ast.get_docstring(node) or ""
            if isinstance(node, ast.ImportFrom):
                alias = next((a for a in node.names if (a.asname or a.name) == attribute), None)
                if alias is not None:
                    module, attribute = _origin(spec, node), alias.name
                    break
        else:
            return ""
    return ""


def first_paragraph(docstring: str) -> str:
    """Return what a docstring says first, in one line."""
    return " ".join(inspect.cleandoc(docstring).split("\n\n", 1)[0].split())


def module_exists(target: str) -> bool:
    """Whether the module of ``"module:attribute"`` is there; whether it can be imported is another matter."""
    module = target.partition(":")[0]
    return module in sys.modules or _find(module) is not None


def _find(module: str) -> ModuleSpec | None:
    """Find a module. `importlib.util.find_spec` would import the packages that it lies in."""
    path: list[str] | None = None
    spec = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        spec = next((s for finder in sys.meta_path if (s := finder.find_spec(name, path)) is not None), None)
        if spec is None:
            return None
        path = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if path is None and depth < len(parts):
            return None
    return spec


def _parse(spec: ModuleSpec | None) -> ast.Module | None:
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        return ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _origin(spec: ModuleSpec, node: ast.ImportFrom) -> str:
    """Name of the module that ``from ... import`` in this module imports from."""
    if not node.level:
        return node.module or ""
    package = spec.name if spec.submodule_search_locations is not None else spec.name.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package
