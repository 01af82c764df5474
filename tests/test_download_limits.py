"""Downloads keep limits, tell and record no secrets, and stay with the commit that they began with."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest

from tests.helpers_server import CONTENT, Server
from utils import download
from utils.addresses import as_recorded, without_secrets
from utils.engine.logs import RunLog
from utils.engine.run_directory import RunDirectory
from utils.errors import UserError
from utils.fetching import Limits, fetch
from utils.lock import release_all

COMMIT, OTHER = "a" * 40, "b" * 40


def quiet(_: str) -> None:
    """Says nothing."""


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("announces", [True, False])
def test_a_file_above_the_limit_is_refused(server: Server, tmp_path: Path, announces: bool) -> None:
    """Whether or not the server says how long it is; nothing stays, and a file of just that size is taken."""
    server.announces = announces
    with pytest.raises(UserError, match=r"larger than 0\.001049 GB \(--max_gb\)"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet, limits=Limits(len(CONTENT) - 1))
    assert not list(tmp_path.iterdir())
    fetch(f"{server.url}/file", tmp_path / "file", say=quiet, limits=Limits(len(CONTENT)))
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_file_that_grows_beyond_the_limit_in_parts_is_refused(server: Server, tmp_path: Path) -> None:
    """The parts of several connections are counted together."""
    server.breaks = [600_000, 0]
    with pytest.raises(UserError, match="brought nothing"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet, tries=1, pause_s=0.0)
    with pytest.raises(UserError, match="--max_gb"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet, limits=Limits(700_000))
    assert not list(tmp_path.iterdir())


def test_a_slow_server_is_given_up(server: Server, tmp_path: Path) -> None:
    """Wherever it makes one wait; what came stays, and the same call goes on."""
    server.breaks, server.pause_s = [300_000], 0.0
    with pytest.raises(UserError, match="brought nothing"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet, tries=0, pause_s=0.0)
    server.pause_s = 30.0
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"takes longer than 0\.005 minutes \(--max_minutes\)"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet, limits=Limits(seconds=0.3))
    assert time.monotonic() - begun < server.pause_s
    server.pause_s = 0.0
    fetch(f"{server.url}/file", tmp_path / "file", say=quiet)
    assert server.ranges[-1] == "bytes=300000-" and (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [201, 202, 203, 204, 205])
def test_an_answer_without_a_file_is_an_error(server: Server, tmp_path: Path, status: int) -> None:
    """It would have become an empty file."""
    server.status = status
    with pytest.raises(UserError, match=f"the server answered {status} .*, and no file"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("announces", [True, False])
def test_an_empty_file_is_an_error(server: Server, tmp_path: Path, announces: bool) -> None:
    """No file that is fetched here is empty."""
    server.content, server.announces = b"", announces
    with pytest.raises(UserError, match=r"sends nothing \(0 bytes\)"):
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet)
    assert not list(tmp_path.iterdir())


def test_a_part_that_was_not_asked_for_is_not_glued_on(server: Server, tmp_path: Path) -> None:
    """Of another address half a file lies there; the server answers with a part."""
    server.breaks = [300_000, 0]
    with pytest.raises(UserError, match="brought nothing"):
        fetch(f"{server.url}/one", tmp_path / "file", say=quiet, tries=1, pause_s=0.0)
    server.headers = {"Content-Range": "bytes 300000-1048575/1048576"}
    server.status = 206
    with pytest.raises(UserError, match=r"the server answered 206 .*, and no file"):
        fetch(f"{server.url}/two", tmp_path / "file", say=quiet)


@pytest.mark.parametrize("length", ["many", "-1", "1e3", "9" * 30, "٣"])
def test_a_length_that_is_none_is_not_believed(server: Server, tmp_path: Path, length: str) -> None:
    """The server says nonsense of what it sends."""
    server.announces, server.headers = False, {"X-A": "b"} if length == "٣" else {"Content-Length": length}
    try:
        fetch(f"{server.url}/file", tmp_path / "file", say=quiet, tries=1, pause_s=0.0)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "words",
    [["--max_gb", "0"], ["--max_gb", "-1"], ["--max_gb", "nan"], ["--max_minutes", "0"], ["--max-minutes", "1e9"]],
)
def test_limits_have_bounds(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        download.main(["bert", *words])
    assert stopped.value.code == 2
    assert words[0].replace("-", "_").replace("__", "--") in capsys.readouterr().err


# --- secrets ---------------------------------------------------------------------------------------------------------

SECRETS = ("anna", "s3cr3t", "t0k3n")


@pytest.mark.parametrize("user", ["", "anna:s3cr3t%2F@", "anna@"])
@pytest.mark.parametrize("query", ["", "?X-Amz-Signature=t0k3n&X-Amz-Credential=anna", "#t0k3n"])
@pytest.mark.parametrize("status", [200, 404, 503])
def test_secrets_in_an_address_are_neither_told_nor_recorded(
    server: Server, tmp_path: Path, user: str, query: str, status: int
) -> None:
    """Not in a line, an error or a record, whatever happens; the server gets them."""
    address = f"{server.url.replace('//', f'//{user}')}/file{query}"
    said: list[str] = []
    server.status = status
    server.breaks = [1000] if status == 200 else []
    try:
        fetch(address, tmp_path / "file", say=said.append, tries=2, pause_s=0.0)
    except UserError as error:
        said.append(str(error))
    said += [path.read_text() for path in tmp_path.glob("*.json")]
    assert said and not [text for text in said for secret in SECRETS if secret in text]
    assert server.paths[0] == f"/file{query if query.startswith('?') else ''}"
    given = server.received[0].get("Authorization", "")
    pair = user.removesuffix("@").replace("%2F", "/")
    assert base64.b64decode(given.removeprefix("Basic ")).decode().rstrip(":") == pair


def test_a_password_is_not_sent_to_where_a_server_leads(server: Server, tmp_path: Path) -> None:
    """Nor is that address told with what it may have behind `?`."""
    server.elsewhere, server.once = f"{server.url.replace('127.0.0.1', 'localhost')}/store?sig=t0k3n", True
    fetch(f"{server.url.replace('//', '//anna:s3cr3t@')}/file", tmp_path / "file", say=quiet)
    assert "Authorization" in server.received[0] and "Authorization" not in server.received[1]
    server.elsewhere = "http://anna:s3cr3t@example.org/store?sig=t0k3n"
    with pytest.raises(UserError, match=r"leads to http://example.org/store\?…: not an https") as error:
        fetch(f"{server.url}/file", tmp_path / "other", say=quiet)
    assert not [secret for secret in SECRETS if secret in str(error.value)]


@pytest.mark.parametrize(
    "address",
    [
        *("ftp://anna:s3cr3t@h/x?t0k3n", "https://anna:s3cr3t/x", "https://anna:s3/cr3t@h/x", "http://h/x?t0k3n"),
        *("https://anna:s3cr3t@[::1/x", "https://anna:s3cr3t@h:port/x?t0k3n", "https://anna:?t0k3n@h/x"),
    ],
)
def test_a_refused_address_is_told_without_its_secrets(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command, whose parser has it in a word."""
    with pytest.raises(SystemExit) as stopped:
        download.main(["plugin", "--url", address, "--output_dir", str(tmp_path / "out")])
    told = "".join(capsys.readouterr())
    assert stopped.value.code == 2 and not [secret for secret in (*SECRETS, "cr3t") if secret in told], told
    with pytest.raises(SystemExit):
        download.main(["plugin", f"--uri={address}"])
    told = "".join(capsys.readouterr())
    assert not [secret for secret in (*SECRETS, "cr3t") if secret in told], told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://a:b@h/x, and s3://k:s@b/y?z=1.", "see https://h/x, and s3://b/y?…."),
        ("'https://h/x?a#b' (https://h/y#c)", "'https://h/x?…' (https://h/y?…)"),
        ("https:/a:b@h/x", "https:/h/x"),  # of a path
        ("is it so? a@b.c, C:/x?y, http://h:80/x, https://[::1]:80/@x", None),
        ("https://h/x?…: done", None),
    ],
)
def test_texts_lose_secrets_and_nothing_else(text: str, expected: str | None) -> None:
    """And lose nothing more the second time."""
    assert without_secrets(text) == (expected or text) == without_secrets(without_secrets(text))
    assert as_recorded({"a": [text, 1, None]}) == {"a": [expected or text, 1, None]}


def test_a_run_records_no_secrets(tmp_path: Path) -> None:
    """arguments.json has the flags as they may be shown, and a resume compares them so; nor has the log."""
    given = {"data_dir": "https:/anna:s3cr3t@h/x", "label": ["s3://k:s3cr3t@b?t0k3n"], "random_seed": 3}
    RunDirectory(tmp_path / "run", given)
    release_all()
    RunDirectory(tmp_path / "run", {**given, "data_dir": "https:/anna:other@h/x"}, resume=True)
    release_all()
    log = RunLog(tmp_path / "run")
    log.line("the data of https://anna:s3cr3t@h/x?t0k3n are gone")
    log.close()
    recorded = json.loads((tmp_path / "run" / "arguments.json").read_text())["arguments"]
    assert recorded == {"data_dir": "https:/h/x", "label": ["s3://b?…"], "random_seed": 3}
    assert (tmp_path / "run" / "log.log").read_text() == "the data of https://h/x?… are gone\n"


# --- commits ---------------------------------------------------------------------------------------------------------


def bert(server: Server, *more: str) -> None:
    """The command."""
    download.main(["bert", "--mirror", server.url, *more])


def revisions(server: Server) -> list[str]:
    """Which were asked for."""
    return [path.split("/")[4] for path in server.paths]


@pytest.mark.parametrize("leads", [False, True])
def test_all_files_of_a_bert_are_of_one_commit(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leads: bool
) -> None:
    """The first answer names it, also one that leads on; it is recorded, and what is fetched later is of it."""
    monkeypatch.chdir(tmp_path)
    server.headers = {"X-Repo-Commit": COMMIT}
    if leads:
        server.elsewhere, server.once = f"{server.url}/a/b/resolve/store", True
    bert(server, "--revision", "v1")
    asked = [revision for revision in revisions(server) if revision != "store"]
    assert asked == ["v1", COMMIT, COMMIT, COMMIT]
    folder = tmp_path / "models" / "bert-base-uncased"
    records = [json.loads(path.read_text()) for path in folder.glob("*.json.json")]
    assert records and all(record["revision"] == COMMIT and len(record["sha256"]) == 64 for record in records)
    (folder / "model.safetensors").unlink()
    server.paths.clear()
    bert(server)
    bert(server, "--revision", "v1")
    assert revisions(server) == [COMMIT]


def test_another_file_for_the_same_commit_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So is another commit than the recorded one, asked for or given."""
    monkeypatch.chdir(tmp_path)
    server.headers = {"X-Repo-Commit": COMMIT}
    bert(server, "--model", f"somebody/small@{COMMIT}")
    folder = tmp_path / "models" / "small"
    (folder / "vocab.txt").unlink()
    server.content = CONTENT[::-1]
    for words, said in (
        ((), "has the SHA-256"),
        (("--revision", OTHER), f"holds the commit {COMMIT}, not {OTHER}"),
        (("--revision", "main"), f"holds the commit {COMMIT}, not main"),
    ):
        with pytest.raises(SystemExit) as stopped:
            bert(server, "--model", "somebody/small", *words)
        assert stopped.value.code == 2 and said in capsys.readouterr().err
    assert not (folder / "vocab.txt").exists()
    server.headers = {"X-Repo-Commit": OTHER}
    with pytest.raises(SystemExit):
        bert(server, "--model", "somebody/small")
    assert f"is of the commit {OTHER}, expected {COMMIT}" in capsys.readouterr().err
