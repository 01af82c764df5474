"""Fetching the published files and saving the hub's datasets; no test leaves this machine."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.helpers_server import CONTENT, Server
from utils import download, save_data
from utils.archives import unpack
from utils.errors import UserError
from utils.fetching import fetch

ROOT = Path(__file__).resolve().parent.parent


def quiet(_: str) -> None:
    pass


def test_file_arrives_with_its_record(server: Server, tmp_path: Path) -> None:
    """Content, size and checksum are right, and nothing temporary stays."""
    target = tmp_path / "folder" / "plugin.pkl"
    fetched = fetch(f"{server.url}/plugin.pkl", target, say=quiet)
    assert target.read_bytes() == CONTENT
    assert fetched.sha256 == hashlib.sha256(CONTENT).hexdigest() and fetched.num_bytes == len(CONTENT)
    record = json.loads((target.parent / "plugin.pkl.json").read_text(encoding="utf-8"))
    assert record == {"url": f"{server.url}/plugin.pkl", "num_bytes": len(CONTENT), "sha256": fetched.sha256}
    assert sorted(path.name for path in target.parent.iterdir()) == ["plugin.pkl", "plugin.pkl.json"]


def test_broken_connection_is_taken_up_where_it_stopped(server: Server, tmp_path: Path) -> None:
    """Two answers break off; the third brings only what is missing."""
    server.breaks = [300_000, 200_000]
    fetch(f"{server.url}/file", tmp_path / "file", say=quiet, pause_s=0.0)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_download_goes_on_in_a_later_run(server: Server, tmp_path: Path) -> None:
    """What an earlier run got is not fetched again; until then there is no file under the final name."""
    server.breaks = [300_000, 0]
    with pytest.raises(UserError, match="300,000"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet, tries=1, pause_s=0.0)
    assert not (tmp_path / "file").exists()
    fetch(f"{server.url}/file", tmp_path / "file", say=quiet)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300000-"


def test_changed_file_is_not_glued_to_the_old_half(server: Server, tmp_path: Path) -> None:
    """The server's file changed after the break: the new one arrives whole."""
    server.breaks = [300_000, 0]
    with pytest.raises(UserError):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet, tries=1, pause_s=0.0)
    server.content, server.etag = CONTENT[::-1], '"two"'
    fetch(f"{server.url}/file", tmp_path / "file", say=quiet)
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


def test_complete_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    """The second call asks the server nothing."""
    for _ in range(2):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_web_page_is_refused(server: Server, tmp_path: Path, content_type: str) -> None:
    """A login page is no checkpoint, whatever the server calls it."""
    server.content, server.content_type = b"\n<!DOCTYPE html><html></html>", content_type
    with pytest.raises(UserError, match="web page"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet)
    assert not (tmp_path / "file").exists()


def test_wrong_address_is_said_at_once(server: Server, tmp_path: Path) -> None:
    """404 is not tried again."""
    server.status = 404
    with pytest.raises(UserError, match="404"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet)
    assert len(server.ranges) == 1


def test_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    """503 is tried as often as allowed."""
    server.status = 503
    with pytest.raises(UserError, match="503"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet, tries=3, pause_s=0.0)
    assert len(server.ranges) == 3


def test_only_web_addresses_are_fetched(tmp_path: Path) -> None:
    """A file:// address would copy any file of the machine."""
    with pytest.raises(UserError, match="http"):
        fetch("file:///etc/hostname", tmp_path / "file", say=quiet)


@pytest.mark.parametrize("size", ["base", "large"])
def test_plugin_command_puts_the_file_where_the_launchers_look(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    """--mirror takes the place of the published address, the path below it stays."""
    monkeypatch.chdir(tmp_path)
    download.main(["plugin", "--size", size, "--mirror", server.url])
    assert server.paths == [f"/plugins/plugin-t5_{size}-mux_4.pkl"]
    assert (tmp_path / "checkpoints" / "plugins" / f"plugin-t5_{size}-mux_4.pkl").read_bytes() == CONTENT


def _archive(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return stream.getvalue()


def test_corpus_command_fetches_and_unpacks(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The corpus ends up in data/wikicorpus_128, and a second call reuses it."""
    server.content = _archive({"wikicorpus_128/train_0.txt": b"a span\n"})
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        download.main(["corpus", "--mirror", server.url])
    assert (tmp_path / "data" / "wikicorpus_128" / "train_0.txt").read_bytes() == b"a span\n"
    assert server.paths == ["/wikicorpus_128.tar.gz"]
    assert "reused" in capsys.readouterr().out


def test_bert_command_makes_a_plain_directory(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """bert-base-uncased where the original keeps its models; what is there is not fetched again."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        download.main(["bert", "--mirror", server.url])
    names = ["config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors"]
    assert server.paths == [f"/google-bert/bert-base-uncased/resolve/main/{name}" for name in names]
    assert all((tmp_path / "models/bert-base-uncased" / name).read_bytes() == CONTENT for name in names)
    assert f"finetuning.sh {tmp_path}/models/bert-base-uncased mrpc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("members", "links"),
    [
        ({"../outside.txt": b"x"}, {}),
        ({"/tmp/toolkit-outside.txt": b"x", "../../up.txt": b"x"}, {}),
        ({}, {"corpus/link": "/etc"}),
    ],
)
def test_archive_that_reaches_outside_is_refused(
    tmp_path: Path, members: dict[str, bytes], links: dict[str, str]
) -> None:
    """Nothing is written outside of the folder, and the folder does not appear."""
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(_archive(members, links))
    with pytest.raises(UserError, match="refused"):
        unpack(archive, tmp_path / "inner" / "corpus", say=quiet)
    assert not (tmp_path / "outside.txt").exists() and not (tmp_path / "inner" / "corpus").exists()


def test_damaged_archive_is_said(tmp_path: Path) -> None:
    """A truncated archive leaves no half corpus."""
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(_archive({"corpus/train.txt": bytes(range(256)) * 500})[:400])
    with pytest.raises(UserError, match="not a tar archive"):
        unpack(archive, tmp_path / "corpus", say=quiet)
    assert not (tmp_path / "corpus").exists()


# ---- save_data -------------------------------------------------------------------------------------------


class Stored:
    """What a loader gives: writes its name where it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name

    def save_to_disk(self, path: str) -> None:
        Path(path).mkdir(exist_ok=True)  # as the library does
        (Path(path) / "name").write_text(self.name, encoding="utf-8")


def unasked(*_: object) -> None:
    """A hub that says of no revision what it is."""


def test_every_dataset_is_saved_once_where_it_is_looked_for(tmp_path: Path) -> None:
    """All nine GLUE tasks and SQuAD, each asked for once; a second run asks for none."""
    asked: list[tuple[str, str | None]] = []

    def load(repository: str, configuration: str | None, _: str | None) -> Stored:
        asked.append((repository, configuration))
        return Stored(configuration or repository)

    for _ in range(2):
        save_data.save(save_data.NAMES, tmp_path, load, quiet, unasked)
    assert asked == [*(("nyu-mll/glue", name) for name in save_data.GLUE_NAMES), ("rajpurkar/squad", None)]
    assert len(set(asked)) == 10
    assert (tmp_path / "glue" / "mnli" / "name").read_text(encoding="utf-8") == "mnli"
    assert (tmp_path / "SQuAD" / "name").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SQuAD", "glue"]


def test_only_chooses(tmp_path: Path) -> None:
    """--only saves what it names and nothing else."""
    save_data.main(
        ["--only", "squad", "rte", "--data-path", str(tmp_path)],
        lambda repository, name, _: Stored(name or "squad"),
        unasked,
    )
    assert sorted(path.name for path in (tmp_path / "glue").iterdir()) == ["rte"]
    assert (tmp_path / "SQuAD").is_dir()


def test_without_network_one_sentence_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, the dataset and the reason, no traceback and no half-made folder."""

    def load(repository: str, configuration: str | None, _: str | None) -> Stored:
        raise ConnectionError("no route\nto host")

    with pytest.raises(SystemExit) as stopped:
        save_data.main(["--only", "mrpc", "--data-path", str(tmp_path)], load, unasked)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: mrpc: could not load nyu-mll/glue") and "no route to host" in error
    assert error.count("\n") == 1 and not (tmp_path / "glue").exists()


def test_save_data_runs_as_a_file() -> None:
    """`python3 utils/save_data.py`, as the original's README has it."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "utils" / "save_data.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "squad" in run.stdout
