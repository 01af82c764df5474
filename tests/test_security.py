"""Nothing of a stranger's is run, unpickled, unpacked or fetched unseen: a walk through the sources, and attempts."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from dataset.tasks import TASKS
from tests.helpers_decomposition import tiny_config
from tests.helpers_security import findings_in, findings_in_shell
from tests.helpers_server import CONTENT, Server
from tests.tiny import backbone
from utils.errors import UserError, user_errors
from utils.fetching import fetch
from utils.loading import load_t5
from utils.tucker.loading import load_classifier

ROOT = Path(__file__).resolve().parent.parent
#: File -> the rules that it is there for, as it does what they forbid everywhere else and is tested below; or the one
#: thing of a rule that it may do.
ALLOWED = {
    "utils/fetching.py": {"address"},
    "utils/archives.py": {"archive"},
    "benchmarks/serve_load.py": {"address"},  # asks the server that it has started, at 127.0.0.1
    "benchmarks/serve_peers.py": {"address"},  # likewise
    "utils/api_page.py": {"importlib.import_module of a name"},  # the toolkit's own packages, from a list beside it
    # Of the file that the same command has just written, to compare its answers: no stranger's. Torch has no reader of
    # .pt2 that does not unpickle.
    "utils/export/torch_export.py": {"torch.export.load"},
    "utils/outputs.py": {"zipfile.ZipFile that is not written"},  # reads the names in a submission, and unpacks nothing
    # Starts the toolkit's own scripts, for the launcher that made its socket in a folder that nobody else can enter.
    "utils/warm.py": {"os.execv", "code"},
    # Lists what is in a file of PyTorch, to refuse what is compressed, and unpacks nothing.
    "model/weights.py": {"zipfile.ZipFile that is not written"},
    "tests/test_going_on.py": {"bash -c with text that is put together"},  # functions of the launchers
    "tests/test_launch.py": {"bash -c with text that is put together"},  # the line above it
    "tests/test_stopped.py": {"shell=True"},  # a proposed command, pasted
    "tests/test_environment.py": {"/bin/bash -c with text that is put together"},  # functions of scripts/env.sh
    "tests/test_paper.py": {"bash -c with text that is put together"},  # the line above it
    "tests/test_next_steps.py": {"bash -c with text that is put together"},  # a proposed command, pasted
    "tests/test_streams.py": {"bash -c with text that is put together"},  # redirections
}
#: Tests make archives, serve them without encryption, unpickle what they pickled and run what the pages show.
ALLOWED_IN_TESTS = {"unpickling", "code", "archive", "address"}


def sources(ending: str) -> list[Path]:
    """The files of the repository with this ending."""
    left_out = {".git", ".venv", "outputs", "checkpoints", "data", "runs", "build", "dist"}
    found = [path for path in ROOT.rglob(f"*{ending}") if not left_out & set(path.relative_to(ROOT).parts)]
    assert found
    return sorted(found)


def shell_scripts() -> list[Path]:
    """Those, and files without an ending whose first line names a shell."""
    bare = [path for path in sources("") if path.is_file() and not path.suffix]
    return [*sources(".sh"), *(path for path in bare if re.match(rb"#!.*sh\b", path.read_bytes()[:80]))]


# --- the walk --------------------------------------------------------------------------------------------------------


def test_sources_keep_the_rules() -> None:
    """No free unpickling, no code out of text, no shell, no archive, address or YAML but by the safe way; and no leave
    that nothing takes."""
    broken, taken = [], {name: set[str]() for name in ALLOWED}
    for path in sources(".py"):
        name = path.relative_to(ROOT).as_posix()
        allowed = ALLOWED.get(name, set()) | (ALLOWED_IN_TESTS if name.startswith("tests/") else set())
        found = findings_in(path.read_text(encoding="utf-8"))
        broken += [f"{name}:{line}: {what} ({rule})" for rule, line, what in found if not allowed & {rule, what}]
        if name in taken:
            taken[name] = {word for place in found for word in (place.rule, place.found)}
    assert not broken, "\n".join(broken)
    assert not {name: left for name, allowed in ALLOWED.items() if (left := allowed - taken[name])}


def test_an_exported_program_is_read_by_its_writer_alone() -> None:
    """Reading a .pt2 unpickles: it is done in one place, with the path of the file written on the line before."""
    ours = {path: path.read_text(encoding="utf-8") for path in sources(".py") if "tests" not in path.parts}
    assert [path.relative_to(ROOT).as_posix() for path, text in ours.items() if "torch_export" in text] == [
        "utils/export/__main__.py"
    ]
    together = r"torch_export\.write\(source, place\)\n\s+run = torch_export\.read\(place, "
    assert re.search(together, ours[ROOT / "utils" / "export" / "__main__.py"])


def test_tests_read_no_weights_freely() -> None:
    """What tests may unpickle is what they pickled themselves; weight files are none of it."""
    for path in sources(".py"):
        found = findings_in(path.read_text(encoding="utf-8"))
        assert not [place for place in found if "torch.load" in place.found or "weights_only" in place.found], path


def test_shell_scripts_keep_the_rules() -> None:
    """No eval, nothing piped into a shell, no address without encryption."""
    broken = [
        f"{path.name}:{line}: {what}"
        for path in shell_scripts()
        for _, line, what in findings_in_shell(path.read_text(encoding="utf-8"))
    ]
    assert not broken, "\n".join(broken)


def test_what_the_pages_show_keeps_the_rules() -> None:
    """Their blocks of Python are copied; the exceptions are told beside them."""
    allowed = {"docs/export.md": {"trust_remote_code=True", "torch.export.load"}}  # of a folder that one made oneself
    broken = []
    for page in sources(".md"):
        name = page.relative_to(ROOT).as_posix()
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
        for block in blocks if name != "docs/api.md" else ():  # signatures alone
            found = findings_in(block)
            broken += [f"{name}: {place.found}" for place in found if place.found not in allowed.get(name, ())]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ("unpickling", "import pickle\npickle.load(f)"),
        ("unpickling", "import pickle as p\nread = p.loads"),
        ("unpickling", "from pickle import Unpickler"),
        ("unpickling", "import torch\ntorch.load(f)"),
        ("unpickling", "from torch import load\nload(f, weights_only=False)"),
        ("unpickling", "import torch\ntorch.load(f, weights_only=careful)"),
        ("unpickling", "import numpy as np\nnp.load(f, allow_pickle=True)"),
        ("unpickling", "import joblib\njoblib.load(f)"),
        ("unpickling", "model.save_pretrained(d, safe_serialization=False)"),
        ("code", "eval(text)"),
        ("code", "exec(text)"),
        ("code", "from builtins import eval as look"),
        ("code", "AutoModel.from_pretrained(d, trust_remote_code=True)"),
        ("code", "AutoTokenizer.from_pretrained(d)"),
        ("code", "kind_of(task).from_config(config)"),
        ("code", "AutoConfig.from_pretrained(d, **{'trust_remote_code': False})"),
        ("code", "AutoConfig.from_pretrained(d, trust_remote_code=trusts)"),
        ("code", "load = AutoModel.from_pretrained"),
        ("code", "getattr(AutoModel, 'from_pretrained')(d)"),
        ("code", "import operator\noperator.methodcaller('from_config', config)(AutoModel)"),
        ("code", "from transformers import pipeline\npipeline('fill-mask', d)"),
        ("code", "from transformers.dynamic_module_utils import get_class_from_dynamic_module"),
        ("shell", "import subprocess\nsubprocess.run(text, shell=True)"),
        ("shell", "run(text, shell=flag)"),
        ("shell", "from os import system"),
        ("yaml", "import yaml\nyaml.load(f)"),
        ("archive", "import tarfile\ntarfile.open(f).extractall(d)"),
        ("archive", "archive.extractall(d)"),
        ("archive", "import zipfile\nzipfile.ZipFile(f).read('a')"),
        ("archive", "import shutil\nshutil.unpack_archive(f)"),
        ("address", "import urllib.request\nurllib.request.urlopen(u)"),
        ("address", "import requests"),
        ("address", "session.get(u, verify=False)"),
        ("address", "URL = 'http://example.org/file'"),
        ("address", "import ssl\nssl._create_unverified_context()"),
        ("temporary", "import tempfile\ntempfile.mktemp()"),
        ("unpickling", "import torch\ntorch.export.load(f)"),
        ("unpickling", "from torch.export import load\nload(f)"),
        ("unpickling", "import torch.distributed.checkpoint as dcp\ndcp.load(state)"),
        ("unpickling", "from torch.distributed.checkpoint import load"),
        ("unpickling", "import torch\nread = torch.load"),
        ("unpickling", "import torch, functools\nfunctools.partial(torch.load, f)"),
        ("unpickling", "import torch\ntorch.load(f, weights_only=True, pickle_module=dill_like)"),
        ("unpickling", "import pickle\ngetattr(pickle, 'load')(f)"),
        ("unpickling", "import pickle as p\ngetattr(p, name)(f)"),
        ("unpickling", "import pickle\nvars(pickle)[name](f)"),
        ("unpickling", "import pickle\npickle.__dict__[name](f)"),
        ("unpickling", "import torch\ngetattr(torch, 'hub')"),
        ("unpickling", "import torch\ngetattr(torch, 'load')(f)"),
        ("unpickling", "import importlib\nimportlib.import_module('pickle').loads(b)"),
        ("unpickling", "from importlib import import_module as get\nget(name='_pickle')"),
        ("unpickling", "from pickle import *"),
        ("code", "import importlib\nimportlib.import_module(name)"),
        ("code", "import importlib\nimportlib.import_module(f'{name}.x')"),
        ("code", "import builtins\ngetattr(builtins, name)(text)"),
        ("shell", "import asyncio\nasyncio.create_subprocess_shell(text)"),
        ("shell", "loop.subprocess_shell(make, text)"),
        ("shell", "import subprocess\nsubprocess.run(['bash', '-c', text])"),
        ("shell", "import subprocess\nsubprocess.run(('/bin/sh', '-ec', f'ls {folder}'), check=True)"),
        ("shell", "command = ['env', 'bash', '-c', *words]"),
        ("shell", "command = ['sh', '-c'] + [text]"),
        ("shell", "import asyncio\nasyncio.create_subprocess_exec('bash', '-lc', text)"),
        *(("shell", f"import os\nos.{name}(path, words)") for name in ("execv", "execvpe", "spawnlp", "posix_spawn")),
        ("shell", "from os import execl as run\nrun(path)"),
        ("shell", "import os\ngetattr(os, name)(text)"),
        ("archive", "import zipfile\nzipfile.Path(f, 'a').read_text()"),
        ("archive", "from zipfile import Path"),
        ("archive", "import zipfile\nwith zipfile.ZipFile(f, mode='r') as z: z.extractall(d)"),
        ("archive", "archive.extract(member, d)"),
        ("archive", "getattr(archive, 'extractall')(d)"),
        ("archive", "import zipfile\nread = zipfile.ZipFile"),
    ],
)
def test_the_walk_finds(rule: str, source: str) -> None:
    """The walk is not blind: each of these breaks its rule."""
    assert rule in {found.rule for found in findings_in(source)}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\ntry: pass\nexcept pickle.UnpicklingError: pass",
        "import torch\ntorch.load(f, weights_only=True)",
        "import json\njson.load(f)",
        "import re\nre.compile('a')\nmodel.eval()",
        "AutoModel.from_pretrained(d, trust_remote_code=False)\nAutoModel.from_config(c, trust_remote_code=False)",
        "model.save_pretrained(d)\nopen_pretrained(AutoModel, d)",
        "import subprocess\nsubprocess.run(['ls'], check=True)",
        "import yaml\nyaml.safe_load(f)",
        "import zipfile\nzipfile.ZipFile(f, 'w')",
        "import subprocess\nsubprocess.run(['bash', '-c', 'echo done', 'bash', word])",
        "import subprocess\nsubprocess.run(['bash', script, '-c', text])",
        "import torch\ngetattr(torch, 'float32')\ngetattr(config, name)\nvars(config)",
        "import importlib\nimportlib.import_module('torch')\nimportlib.import_module(f'standalone.{name}')",
        "import asyncio\nasyncio.create_subprocess_exec('ls', folder)",
        "import torch\ntorch.export.save(program, f)\ntorch.load(f, weights_only=True, pickle_module=None)",
        "URL = 'https://example.org'\nHERE = 'http://127.0.0.1:1/'",
    ],
)
def test_the_walk_lets_pass(source: str) -> None:
    """The safe way of each is no finding."""
    assert not findings_in(source)


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ('eval "$1"', True),
        ("true; eval x", True),
        ("curl -s https://a.b/c | bash", True),
        ("curl http://a.b/c", True),
        ("wget -qO- https://a.b/c | sudo bash", True),
        ("source <(curl -s https://a.b/c)", True),
        ('bash -c "$1"', True),
        ("sh -ec $1", True),
        ("python -c 'AutoModel.from_pretrained(\"a\")'", True),
        ("python -c 'AutoModel.from_pretrained(\"a\", trust_remote_code=False)'", False),
        ("bash -c 'echo done'", False),
        ("bash scripts/test.sh -c file", False),
        ("wget --no-check-certificate https://a.b", True),
        ("# eval and http://a.b", False),
        ("python -m utils.evaluate --eval", False),
        ("curl https://a.b/c -o file", False),
    ],
)
def test_the_walk_through_shell_scripts_finds(line: str, bad: bool) -> None:
    """As above, for shell scripts."""
    assert bool(findings_in_shell(line)) == bad


def test_scripts_without_an_ending_are_walked() -> None:
    """.ci/run is one; what is no shell script is none."""
    names = {path.relative_to(ROOT).as_posix() for path in shell_scripts()}
    assert {".ci/run", "scripts/env.sh"} <= names and not names & {"LICENSE", "train_t5.py"}


# --- weights ---------------------------------------------------------------------------------------------------------


class _TouchesMarker:
    """Unpickling this would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("family", ["t5", "bert"])
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_model_directory_with_a_malicious_pickle(tmp_path: Path, family: str, form: str) -> None:
    """pytorch_model.bin in the place of model.safetensors is refused by Transformers' loader too, and has not run."""
    folder, marker = tmp_path / "model", tmp_path / "marker"
    if family == "t5":
        backbone(folder)
    else:
        BertForSequenceClassification(tiny_config()).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    evil = {"shared.weight": _TouchesMarker(marker)}
    if form == "torch":
        torch.save(evil, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(evil))
    with pytest.raises(user_errors()):
        if family == "t5":
            load_t5(str(folder), None, tokenizer=False)
        else:
            load_classifier(str(folder), TASKS["sst2"], trained=False)
    assert not marker.exists()
    pickle.loads(pickle.dumps(evil))  # unpickled carelessly it does what was refused
    assert marker.exists()


# --- downloads -------------------------------------------------------------------------------------------------------


def quiet(_: str) -> None:
    """Says nothing."""


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://example.org/file",
            "ftp://example.org/file",
            "file:///etc/hostname",
            "example.org/file",
            "https:///file",
        ),
        *("http://127.0.0.1.example.org/file", "http://localhost@example.org/file", "http://[::1/file"),
    ],
)
def test_only_encrypted_addresses_are_fetched(tmp_path: Path, url: str) -> None:
    """Any other is refused before a connection is made; names that only look like this machine's too."""
    with pytest.raises(UserError, match="not an https address"):
        fetch(url, tmp_path / "file", say=quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("elsewhere", ["http://example.org/file", "file:///etc/hostname", "ftp://example.org/file"])
def test_a_server_cannot_lead_to_an_unsafe_address(server: Server, tmp_path: Path, elsewhere: str) -> None:
    """The address that it leads to is held to the same rule (or to urllib's own), and named."""
    server.elsewhere = elsewhere
    with pytest.raises(UserError, match=rf"leads to {elsewhere}: not an https address|{elsewhere}' is not allowed"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet)
    assert not (tmp_path / "file").exists()


def test_a_file_with_another_checksum_is_refused(server: Server, tmp_path: Path) -> None:
    """Neither the file nor a part of it stays; with the right checksum it is taken, when it is reused too."""
    right, wrong = hashlib.sha256(CONTENT).hexdigest(), "0" * 64
    with pytest.raises(UserError, match=f"has the SHA-256 {right}, expected {wrong}"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet, sha256=wrong)
    assert not list(tmp_path.iterdir())
    for _ in range(2):
        assert fetch(f"{server.url}/file", tmp_path / "file", say=quiet, sha256=right.upper()).sha256 == right
    assert len(server.paths) == 2
    with pytest.raises(UserError, match=f"expected {wrong}"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet, sha256=wrong)


def test_a_file_that_changed_on_the_disk_is_fetched_again(server: Server, tmp_path: Path) -> None:
    """Its recorded checksum is compared, not its size alone."""
    fetch(f"{server.url}/file", tmp_path / "file", say=quiet)
    (tmp_path / "file").write_bytes(CONTENT[:-1] + b"?")
    said: list[str] = []
    fetch(f"{server.url}/file", tmp_path / "file", say=said.append)
    assert (tmp_path / "file").read_bytes() == CONTENT and any(
        "has changed since it was fetched" in line for line in said
    )
    assert json.loads((tmp_path / "file.json").read_text())["sha256"] == hashlib.sha256(CONTENT).hexdigest()
