"""Finds in Python sources what could run, unpickle, unpack or fetch something of a stranger's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple


class Finding(NamedTuple):
    """A place that breaks a rule."""

    rule: str
    line: int
    found: str


#: Rule -> names that sources do not use at all: functions, or modules with all that is in them.
FORBIDDEN = {
    "unpickling": (
        *("pickle.load", "pickle.loads", "pickle.Unpickler", "pickle._Unpickler", "_pickle", "cPickle", "dill"),
        *("cloudpickle", "joblib.load", "marshal", "shelve", "pandas.read_pickle", "jsonpickle"),
        *("torch.hub", "torch.jit.load", "torch.serialization.add_safe_globals", "torch.serialization.safe_globals"),
    ),
    "code": ("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "runpy", "code"),
    "shell": ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands"),
    "yaml": ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader"),
    "archive": ("shutil.unpack_archive", "tarfile.open", "tarfile.TarFile", "tarfile.TarFile.extractall"),
    "address": ("urllib.request", "requests", "httpx", "aiohttp", "http.client", "ftplib", "ssl"),
    "temporary": ("tempfile.mktemp", "os.tempnam", "os.tmpnam"),
}
_BUILTINS = ("eval", "exec", "compile", "__import__")
#: Keyword of any call -> its rule and the one value that it may have.
KEYWORDS = {
    "weights_only": ("unpickling", True),
    "allow_pickle": ("unpickling", False),
    "safe_serialization": ("unpickling", True),
    "use_safetensors": ("unpickling", True),
    "trust_remote_code": ("code", False),
    "shell": ("shell", False),
    "verify": ("address", True),
}
#: Methods of whatever object, by their names alone.
METHODS = {"extractall": "archive", "read_pickle": "unpickling"}
#: An address that is not encrypted, of another machine.
_PLAIN = re.compile(r"\b(?:http|ftp)://(?!127\.0\.0\.1|localhost|\[::1\])[\w{]")
#: What a shell script may not have.
SHELL = {
    "code": re.compile(r"(?:^|[;&|]\s*)\s*eval\b|\b(?:curl|wget)\b[^|\n]*\|\s*(?:ba|z|da)?sh\b"),
    "address": re.compile(_PLAIN.pattern + r"|--insecure\b|\bcurl\b.* -k\b|--no-check-certificate|--trusted-host"),
}


def findings_in(source: str) -> list[Finding]:
    """What in Python source breaks a rule, in the order of its lines."""
    tree = ast.parse(source)
    imported = _imported(tree)
    found = [finding for node in ast.walk(tree) for finding in _of_node(node, imported)]
    return sorted(set(found), key=lambda finding: finding.line)


def findings_in_shell(source: str) -> list[Finding]:
    """The same for a shell script; comments do not count."""
    lines = [(number, re.sub(r"(?:^|\s)#.*", "", line)) for number, line in enumerate(source.splitlines(), start=1)]
    return [
        Finding(rule, number, line.strip()) for number, line in lines for rule, bad in SHELL.items() if bad.search(line)
    ]


def _of_node(node: ast.AST, imported: dict[str, str]) -> Iterator[Finding]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from _named(_names_of(node), node.lineno)
    elif isinstance(node, ast.Name | ast.Attribute):
        yield from _named([_qualified(node, imported) or ""], node.lineno)
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield Finding(METHODS[node.attr], node.lineno, f".{node.attr}")
    elif isinstance(node, ast.Call):
        yield from _of_call(node, imported)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (plain := _PLAIN.search(node.value)):
        yield Finding("address", node.lineno, plain.group())


def _named(names: list[str], line: int) -> Iterator[Finding]:
    for rule, forbidden in FORBIDDEN.items():
        for name in names:
            if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden):
                yield Finding(rule, line, name)


def _of_call(call: ast.Call, imported: dict[str, str]) -> Iterator[Finding]:
    name = _qualified(call.func, imported)
    given = {word.arg: word.value for word in call.keywords if word.arg}
    if name in ("torch.load", "torch.serialization.load") and "weights_only" not in given:
        yield Finding("unpickling", call.lineno, f"{name} without weights_only=True")
    if name == "zipfile.ZipFile" and not _is(given.get("mode", call.args[1] if len(call.args) > 1 else None), "w"):
        yield Finding("archive", call.lineno, "zipfile.ZipFile that is not written")
    for word, value in given.items():
        rule, right = KEYWORDS.get(word, ("", None))
        if rule and not _is(value, right):
            yield Finding(rule, call.lineno, f"{word}={ast.unparse(value)}")


def _is(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is type(value) and node.value == value


def _imported(tree: ast.AST) -> dict[str, str]:
    """What the imports of a file call its names -> their full names."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"
    return names


def _names_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [] if node.level else [f"{node.module}.{alias.name}" for alias in node.names]


def _qualified(node: ast.AST, imported: dict[str, str]) -> str | None:
    """`torch.load` of `load`, where that was imported so; None of what begins with a name of the file's own."""
    if isinstance(node, ast.Name):
        return imported.get(node.id, node.id if node.id in _BUILTINS else None)
    if isinstance(node, ast.Attribute) and (base := _qualified(node.value, imported)):
        return f"{base}.{node.attr}"
    return None
