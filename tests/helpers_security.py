"""Finds in Python sources what could run, unpickle, unpack or fetch something of a stranger's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple


class Finding(NamedTuple):
    """A place that breaks a rule."""

    rule: str
    line: int
    found: str


_WHERE = ("", "e", "p", "pe")
#: Functions that replace this process by another program, or start one beside it, each in many variants.
_PROGRAMS = tuple(f"os.{kind}{how}{where}" for kind in ("exec", "spawn") for how in "lv" for where in _WHERE)
#: What in Transformers runs a folder's modules by a way of its own.
_REMOTE = tuple(f"transformers.{name}" for name in ("pipeline", "pipelines", "dynamic_module_utils"))
#: Rule -> names that sources do not use at all: functions, or modules with all that is in them.
FORBIDDEN = {
    "unpickling": (
        *("pickle.load", "pickle.loads", "pickle.Unpickler", "pickle._Unpickler", "_pickle", "cPickle", "dill"),
        *("cloudpickle", "joblib.load", "marshal", "shelve", "pandas.read_pickle", "jsonpickle"),
        *("torch.hub", "torch.jit.load", "torch.serialization.add_safe_globals", "torch.serialization.safe_globals"),
        *("torch.export.load", "torch.package", "torch.distributed.checkpoint"),  # they unpickle inside
    ),
    "code": ("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "runpy", "code", *_REMOTE),
    "shell": (
        *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands", "pty"),
        *("asyncio.create_subprocess_shell", "asyncio.subprocess.create_subprocess_shell"),
        *(*_PROGRAMS, "os.posix_spawn", "os.posix_spawnp"),
    ),
    "yaml": ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader"),
    "archive": (
        *("shutil.unpack_archive", "shutil.register_unpack_format", "tarfile.open", "tarfile.TarFile"),
        *("zipfile.Path", "zipfile.PyZipFile"),
    ),
    "address": ("urllib.request", "requests", "httpx", "aiohttp", "http.client", "ftplib", "ssl"),
    "temporary": ("tempfile.mktemp", "os.tempnam", "os.tmpnam"),
}
_BUILTINS = ("eval", "exec", "compile", "__import__", "getattr", "vars")
#: Modules of which nothing is looked up by a name that is made as the program runs.
_GUARDED = ("pickle", "builtins", "os", "subprocess", "asyncio", "yaml", "tarfile", "zipfile", "shutil")
#: Functions that are safe with the right keywords, so that each is called where it is named.
_CAREFUL = ("torch.load", "torch.serialization.load", "zipfile.ZipFile")
#: Keyword of any call -> its rule and the one value that it may have.
KEYWORDS = {
    "weights_only": ("unpickling", True),
    "allow_pickle": ("unpickling", False),
    "pickle_module": ("unpickling", None),
    "safe_serialization": ("unpickling", True),
    "use_safetensors": ("unpickling", True),
    "trust_remote_code": ("code", False),
    "shell": ("shell", False),
    "verify": ("address", True),
}
#: Methods of whatever object that ask on standard input whether to run a folder's modules, unless they are told not to.
_LOADERS = ("from_pretrained", "from_config")
#: Methods of whatever object, by their names alone.
METHODS = {"extractall": "archive", "extract": "archive", "read_pickle": "unpickling", "subprocess_shell": "shell"}
#: An address that is not encrypted, of another machine.
_PLAIN = re.compile(r"\b(?:http|ftp)://(?!127\.0\.0\.1|localhost|\[::1\])[\w{]")
_SHELLS = r"(?:ba|da|z|k)?sh"
#: What a shell script may not have.
SHELL = {
    "code": re.compile(
        r"(?:^|[;&|]\s*)\s*eval\b"
        rf"|\b(?:curl|wget)\b[^|\n]*\|\s*(?:sudo\s+)?{_SHELLS}\b|<\(\s*(?:curl|wget)\b"
        rf"|(?:^|[\s;&|(/]){_SHELLS}\s+-[a-z]*c\s+(?!')"  # a command that is put together, and not in single quotes
        rf"|\.(?:{'|'.join(_LOADERS)})\((?!.*\btrust_remote_code=False\b)"  # Python in it
    ),
    "address": re.compile(_PLAIN.pattern + r"|--insecure\b|\bcurl\b.* -k\b|--no-check-certificate|--trusted-host"),
}


def findings_in(source: str) -> list[Finding]:
    """What in Python source breaks a rule, in the order of its lines."""
    tree = ast.parse(source)
    imported = _imported(tree)
    found = [finding for node in ast.walk(tree) for finding in _of_node(node, imported)]
    return sorted({*found, *_uncalled(tree, imported)}, key=lambda finding: finding.line)


def findings_in_shell(source: str) -> list[Finding]:
    """The same for a shell script; comments do not count."""
    lines = [(number, re.sub(r"(?:^|\s)#.*", "", line)) for number, line in enumerate(source.splitlines(), start=1)]
    return [
        Finding(rule, number, line.strip()) for number, line in lines for rule, bad in SHELL.items() if bad.search(line)
    ]


def _of_node(node: ast.AST, imported: dict[str, str]) -> Iterator[Finding]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from _named(_names_of(node), node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module in _GUARDED and node.names[0].name == "*":
            yield Finding(_rule_of(node.module), node.lineno, f"from {node.module} import *")
    elif isinstance(node, ast.List | ast.Tuple):
        yield from _of_words(node.elts, node.lineno)
    elif isinstance(node, ast.Name | ast.Attribute):
        name = _qualified(node, imported) or ""
        yield from _named([name], node.lineno)
        if name.removesuffix(".__dict__") in _GUARDED and name.endswith(".__dict__"):
            yield Finding(_rule_of(name.removesuffix(".__dict__")), node.lineno, name)
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


def _rule_of(module: str) -> str:
    """The rule that most of a guarded module's names are under."""
    return next(rule for rule, bad in FORBIDDEN.items() if any(name.startswith(f"{module}.") for name in bad))


def _uncalled(tree: ast.AST, imported: dict[str, str]) -> Iterator[Finding]:
    """Careful functions that are handed on, where nobody sees their keywords."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        name = _qualified(node, imported) if id(node) not in called else None
        if isinstance(node, ast.Attribute) and node.attr in _LOADERS and id(node) not in called:
            yield Finding("code", node.lineno, f".{node.attr} that is not called")
        if isinstance(node, ast.Constant) and node.value in _LOADERS:
            yield Finding("code", node.lineno, f"{node.value!r}, which is looked up")
        if name in _CAREFUL and isinstance(node, ast.Name | ast.Attribute):
            yield Finding("archive" if "zip" in name else "unpickling", node.lineno, f"{name} that is not called")


def _of_words(words: list[ast.expr], line: int) -> Iterator[Finding]:
    """A command line in a list: a shell, its -c, and behind it anything but fixed text."""
    texts = [word.value if isinstance(word, ast.Constant) and isinstance(word.value, str) else None for word in words]
    for place, (shell, flag) in enumerate(pairwise(texts)):
        begins = re.fullmatch(rf"(?:.*/)?{_SHELLS} -[a-z]*c", f"{shell} {flag}")
        if begins and (len(texts) == place + 2 or texts[place + 2] is None):
            yield Finding("shell", line, f"{begins.group()} with text that is put together")


def _of_lookup(call: ast.Call, name: str | None, imported: dict[str, str]) -> Iterator[Finding]:
    """What gets at a module or at what is in it through text."""
    first, second = [*call.args[:2], None, None][:2]
    if name in ("getattr", "vars", "builtins.getattr", "builtins.vars") and first is not None:
        module = _qualified(first, imported) or ""
        if isinstance(second, ast.Constant) and isinstance(second.value, str):
            looked_up = f"{module}.{second.value}"
            yield from _named([looked_up], call.lineno)
            if second.value in METHODS or looked_up in _CAREFUL:
                yield Finding(METHODS.get(second.value, "unpickling"), call.lineno, f"{name}(…, {second.value!r})")
        elif module in _GUARDED:
            yield Finding(_rule_of(module), call.lineno, f"{name}({module}, …)")
    elif name in ("importlib.import_module", "importlib.__import__"):
        given = first if first is not None else next((word.value for word in call.keywords if word.arg == "name"), None)
        if isinstance(given, ast.JoinedStr):  # of a package whose name is fixed
            given = given.values[0] if "." in ast.unparse(given.values[0]) else given
        if not isinstance(given, ast.Constant):
            yield Finding("code", call.lineno, f"{name} of a name")
        elif given.value in _GUARDED:
            yield Finding(_rule_of(given.value), call.lineno, f"{name}({given.value!r})")
        else:
            yield from _named([str(given.value)], call.lineno)


def _of_call(call: ast.Call, imported: dict[str, str]) -> Iterator[Finding]:
    name = _qualified(call.func, imported)
    yield from _of_lookup(call, name, imported)
    yield from _of_words(call.args, call.lineno)
    given = {word.arg: word.value for word in call.keywords if word.arg}
    if name in ("torch.load", "torch.serialization.load") and "weights_only" not in given:
        yield Finding("unpickling", call.lineno, f"{name} without weights_only=True")
    if name == "zipfile.ZipFile" and not _is(given.get("mode", call.args[1] if len(call.args) > 1 else None), "w"):
        yield Finding("archive", call.lineno, "zipfile.ZipFile that is not written")
    if isinstance(call.func, ast.Attribute) and call.func.attr in _LOADERS and "trust_remote_code" not in given:
        yield Finding("code", call.lineno, f".{call.func.attr} without trust_remote_code=False")
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
