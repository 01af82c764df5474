"""The toolkit's own sources as one flat folder of modules that import each other relatively.

Transformers copies a checkpoint's modelling file and, by a search for lines `from .name import`, those that it imports:
siblings in one folder, whatever their number. So `model/plugin/bank.py` becomes `plugin_bank.py`, with its imports
rewritten. All other lines stay as they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import model

#: The package whose modules are taken.
_PACKAGE = "model"
_ROOT = Path(model.__file__).resolve().parent


def flat_name(module: str) -> str:
    """`model.plugin.bank` -> `plugin_bank`."""
    return module.removeprefix(f"{_PACKAGE}.").replace(".", "_")


def flattened(modules: Iterable[str]) -> dict[str, str]:
    """File name -> source of these modules of the package and of all that they import from it.

    Raises:
        ValueError: an import cannot be written relatively, or two modules would have one name.
    """
    waiting, done = list(modules), dict[str, str]()
    origins: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if origins.setdefault(flat_name(name), name) != name:
            raise ValueError(f"The modules {name} and {origins[flat_name(name)]} would both be {flat_name(name)}.py.")
        if f"{flat_name(name)}.py" not in done:
            source, imported = rewritten(_path(name).read_text(encoding="utf-8"))
            done[f"{flat_name(name)}.py"] = source
            waiting += imported
    return dict(sorted(done.items()))


def rewritten(source: str) -> tuple[str, list[str]]:
    """Source with relative imports in the place of those of the package, and the modules that they name.

    Raises:
        ValueError: an import cannot be written relatively.
    """
    lines = source.splitlines(keepends=True)
    imported = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            if any(alias.name.split(".")[0] == _PACKAGE for alias in node.names):
                raise ValueError(f"line {node.lineno}: {ast.unparse(node)} cannot be written as a relative import.")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == _PACKAGE:
            if node.module == _PACKAGE or node.level:
                raise ValueError(f"line {node.lineno}: {ast.unparse(node)} names no module of the package.")
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line.replace(f"from {node.module} ", f"from .{flat_name(node.module)} ", 1)
            imported.append(node.module)
    return "".join(lines), imported


def _path(module: str) -> Path:
    path = _ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
