"""The page of public names, docs/api.md, made from their docstrings.

    python -m utils.api_page

A name is public that its package lists in `__all__`. A test compares the page with what this makes.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.arguments import ToolParser
from utils.errors import run_as_script
from utils.writing import write_text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
#: Packages in the order of the page; all of them can be imported without anything being run.
PACKAGES = (
    *("model", "model.schedule", "model.pruning", "model.decomposition"),
    *("notation", "dataset", "metric.cost", "utils.engine"),
)

_HEAD = """# Public names

Made from docstrings by `python -m utils.api_page`; not edited by hand. Shapes, units and errors are stated where they
matter. What each method is about stands on its page: [Variator](variator.md), [Tucker](tucker.md),
[MiniDisc](minidisc.md)."""


def page() -> str:
    """The whole page, in Markdown."""
    described: set[int] = set()
    parts = [_HEAD]
    for name in PACKAGES:
        package = importlib.import_module(name)
        parts += [f"## {name}", inspect.cleandoc(package.__doc__ or "")]
        for public in sorted(package.__all__, key=str.lower):
            thing = getattr(package, public)
            # A class or function that an earlier package shows as well is described once.
            if _has_docstring(thing) and id(thing) not in described:
                described.add(id(thing))
                parts += _described(f"{name}.{public}", thing)
    return "\n\n".join(parts) + "\n"


def _has_docstring(thing: Any) -> bool:
    return inspect.isclass(thing) or inspect.isfunction(thing)


def _described(name: str, thing: Any) -> Iterator[str]:
    yield f"### {name}"
    yield f"```python\n{_signature(name.rpartition('.')[2], thing)}\n```"
    yield f"```text\n{_own_docstring(thing)}\n```"
    if inspect.isclass(thing) and (rows := list(_methods(thing))):
        yield "\n".join(["| method | |", "|---|---|", *rows])


def _signature(name: str, thing: Any) -> str:
    """How it is called, one argument a line where a line would be too long."""
    word = "class " if inspect.isclass(thing) else "def "
    try:
        signature = inspect.signature(thing)
    except ValueError:  # a protocol
        return f"{word}{name}"
    short = _unquoted(f"{word}{name}{signature}")
    if len(short) <= 100:
        return short
    arguments = ",\n    ".join(str(parameter) for parameter in signature.parameters.values())
    returned = "" if signature.return_annotation is inspect.Signature.empty else f" -> {signature.return_annotation}"
    return _unquoted(f"{word}{name}(\n    {arguments},\n){returned}")


def _unquoted(text: str) -> str:
    """Without the quotation marks of annotations, which are texts where a module postpones them."""
    return re.sub(r"(: |-> )'((?:[^'\\]|\\.)*)'", r"\1\2", text)


def _own_docstring(thing: Any) -> str:
    return inspect.cleandoc(thing.__doc__ or "")


def _methods(cls: type) -> Iterator[str]:
    """A row for each public method and property that the class itself defines: its first sentence."""
    for name, member in vars(cls).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        first = " ".join(inspect.cleandoc(function.__doc__).partition("\n\n")[0].split())
        shown = name if isinstance(member, property) else f"{name}()"
        yield f"| `{shown}` | {first.replace('|', chr(92) + '|')} |"


def main() -> None:
    """Write the page."""
    ToolParser(prog="python -m utils.api_page", description="Writes the page of public names.").parse_args()
    write_text(PAGE, page())
    print(f"made: {PAGE.relative_to(PAGE.parent.parent)}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
