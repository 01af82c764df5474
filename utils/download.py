"""Fetches what the original releases start from: pre-trained plugins, the pre-training corpus, BERT.

    python -m utils.download plugin --size base     -> checkpoints/plugins/plugin-t5_base-mux_4.pkl
    python -m utils.download corpus                 -> data/wikicorpus_128/
    python -m utils.download bert                   -> models/bert-base-uncased/

A download that breaks off is taken up where it stopped. A file appears under its name only when it is
complete; beside it lies NAME.json with its address, size and SHA-256, and a file that is not the recorded one any more
is fetched again. Addresses begin with https; http is good for this machine itself only.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from utils.archives import unpack
from utils.arguments import ToolParser
from utils.errors import UserError, run_as_script, writing
from utils.hints import next_lines
from utils.tool_steps import after_bert, after_corpus, after_plugins

PUBLISHED = "https://thunlp.oss-cn-qingdao.aliyuncs.com/Variator-Compression-Plugin"
PLUGIN_FILE = "plugin-t5_{size}-mux_4.pkl"
CORPUS_NAME = "wikicorpus_128"
CORPUS_FILE = f"{CORPUS_NAME}.tar.gz"
BERT = "google-bert/bert-base-uncased"
#: What of a BERT's repository on the hub is needed; the weights last, so that a wrong name is told at once.
BERT_FILES = ("config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors")

_CHUNK = 1 << 20
_TRIES = 5
_TIMEOUT_S = 30.0
#: Where nothing can be changed on the way: addresses for which http is good enough.
_OWN_HOSTS = ("127.0.0.1", "localhost", "::1")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Fetched:
    """A complete download: where it is, its size and checksum."""

    path: Path
    num_bytes: int
    sha256: str


class _Broken(Exception):
    """The connection ended before the file did; trying again may help."""


class _OnlySafely(urllib.request.HTTPRedirectHandler):
    """Follows a server to another address only if that is a safe one too."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """See the base class."""
        _check_address(newurl, f"{req.full_url} leads to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(
    url: str, target: Path, *, say: Say = print, tries: int = _TRIES, pause_s: float = 1.0, sha256: str | None = None
) -> Fetched:
    """Downloads `url` to `target`, going on where an earlier attempt stopped.

    What has arrived lies in `target`.partial until it is complete. `tries` counts attempts in a row that
    bring nothing; between them it waits `pause_s` seconds, twice as long each time. `sha256` is the checksum that
    the file must have, if it is known.

    Raises:
        UserError: the address is no https address, does not exist, is no file (a web page), or cannot be reached; the
            file has another checksum; or the disk is full, and the same call goes on when there is room.
    """
    _check_address(url, url)
    if (there := _fetched_before(target, say)) is not None:
        _check_sum(there.sha256, sha256, target)
        say(f"reused {target} ({there.num_bytes:,} bytes, sha256 {there.sha256})")
        return there
    _keep_what_is_there(target, say)
    say(f"fetching {url}")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        _fetch_all(url, partial, say, tries, pause_s)
        fetched = Fetched(target, _size(partial), _sha256(partial))
        try:
            _check_sum(fetched.sha256, sha256, target)
        except UserError:  # what came is nothing to go on with
            partial.unlink()
            _state_of(partial).unlink(missing_ok=True)
            raise
        _write_json(_record_of(target), {"url": url, "num_bytes": fetched.num_bytes, "sha256": fetched.sha256})
        os.replace(partial, target)
        _state_of(partial).unlink(missing_ok=True)
    say(f"saved {target} ({fetched.num_bytes:,} bytes, sha256 {fetched.sha256})")
    return fetched


def _check_address(url: str, told: str) -> None:
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError:
        scheme, host = "", None
    if not (host and (scheme == "https" or (scheme == "http" and host in _OWN_HOSTS))):
        raise UserError(f"{told}: not an https address, and over any other what arrives can be changed on the way")


def _check_sum(found: str, wanted: str | None, target: Path) -> None:
    if wanted is not None and found != wanted.lower():
        raise UserError(
            f"{target}: the file has the SHA-256 {found}, expected {wanted}: it is not the one that was meant"
        )


def _fetched_before(target: Path, say: Say) -> Fetched | None:
    """The file as it was recorded, if it is there and the same still."""
    known = _read_json(_record_of(target))
    if not target.is_file() or known.get("num_bytes") != target.stat().st_size:
        return None
    if known.get("sha256") != (found := _sha256(target)):
        return None
    return Fetched(target, target.stat().st_size, found)


def _keep_what_is_there(target: Path, say: Say) -> None:
    """A file that was fetched and then changed gets another name; one that was never fetched is somebody's.

    Raises:
        UserError: it is somebody's.
    """
    if not os.path.lexists(target):
        return
    if not _record_of(target).is_file():
        raise UserError(f"{target} is there already and was not fetched by this tool: name another folder (--output)")
    kept, number = target.with_name(f"{target.name}.changed"), 1
    while os.path.lexists(kept):
        number += 1
        kept = target.with_name(f"{target.name}.changed.{number}")
    with writing(kept):
        target.rename(kept)
    say(f"{target} has changed since it was fetched; it is kept as {kept}")


def _fetch_all(url: str, partial: Path, say: Say, tries: int, pause_s: float) -> None:
    """As many connections as it takes until `partial` is complete."""
    failures = 0
    while True:
        before = _size(partial)
        try:
            _fetch_rest(url, partial)
            return
        except _Broken as broken:
            failures = 0 if _size(partial) > before else failures + 1
            if failures >= tries:
                raise UserError(
                    f"{url}: {broken} ({tries} attempts in a row brought nothing); the same command "
                    f"goes on at byte {_size(partial):,}, --url or --mirror names another address"
                ) from broken
            say(f"  {broken}; going on at byte {_size(partial):,}")
            time.sleep(pause_s * 2**failures)


def _fetch_rest(url: str, partial: Path) -> None:
    """One connection: appends what `partial` lacks, or starts again if the server's file is another one."""
    begun = _read_json(_state_of(partial)) if _size(partial) else {}
    headers = {"User-Agent": "compression-toolkit", "Accept-Encoding": "identity"}
    if begun.get("url") == url:
        headers["Range"] = f"bytes={_size(partial)}-"
        if begun.get("validator"):
            headers["If-Range"] = str(begun["validator"])
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.build_opener(_OnlySafely).open(request, timeout=_TIMEOUT_S) as response:
            _receive(url, response, partial)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing left to send, or another file by now
            if _size(partial) == begun.get("num_bytes"):
                return
            partial.unlink()
            raise _Broken("the server's file has changed, starting again") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _Broken(f"the server answered {error.code}") from error
        raise UserError(f"{url}: the server answered {error.code} {error.reason}; is the address right?") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _broken(error) from error


def _broken(error: Exception) -> _Broken:
    reason = getattr(error, "reason", None) or str(error) or type(error).__name__
    return _Broken(f"the connection failed ({reason})")


def _receive(url: str, response: http.client.HTTPResponse, partial: Path) -> None:
    """Writes the body of an answer; _Broken if it is shorter than announced."""
    if (response.headers.get_content_type() or "").endswith("html"):
        raise UserError(f"{url}: sends a web page, not a file (a login or an expired link?)")
    resumed = response.status == 206
    if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {_size(partial)}-"):
        partial.unlink()
        raise _Broken("the server sent another part than the one asked for, starting again")
    start = _size(partial) if resumed else 0
    length = response.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    # Only a strong validator promises that two halves belong together (RFC 9110, 13.1.5).
    etag = response.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
    _write_json(_state_of(partial), {"url": url, "validator": validator, "num_bytes": total})
    with partial.open("ab" if resumed else "wb") as stream:
        first = not resumed
        while chunk := _read(response):
            if first and chunk.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
                raise UserError(f"{url}: sends a web page, not a file (a login or an expired link?)")
            first = False
            stream.write(chunk)
    if total is not None and _size(partial) < total:
        raise _Broken(f"the connection ended after {_size(partial):,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """What comes next; apart from writing, since either may fail with any of the system's errors."""
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _broken(error) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _state_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _record_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _read_json(path: Path) -> dict[str, str | int | None]:
    """What a record says; nothing where there is none, or a damaged one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: dict[str, object]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _address(args: argparse.Namespace, path: str) -> str:
    """--url as it is, or the published path under --mirror."""
    return args.url or f"{args.mirror.rstrip('/')}/{path}"


def fetch_plugin(args: argparse.Namespace) -> None:
    """The published plugins of one size."""
    name = PLUGIN_FILE.format(size=args.size)
    target = (args.output or Path("checkpoints/plugins")) / name
    fetch(_address(args, f"plugins/{name}"), target, sha256=args.sha256)
    print(next_lines(after_plugins(args.size, target), "then"))


def fetch_corpus(args: argparse.Namespace) -> None:
    """The published corpus, unpacked."""
    output = args.output or Path("data")
    folder = output / CORPUS_NAME
    if folder.is_dir():
        print(f"reused {folder}")
        return
    archive = fetch(_address(args, CORPUS_FILE), output / CORPUS_FILE, sha256=args.sha256)
    unpack(archive.path, folder)
    print(f"{archive.path} may be deleted\n{next_lines(after_corpus(folder))}")


def fetch_bert(args: argparse.Namespace) -> None:
    """A BERT of the hub as a plain directory, whose copies can be edited into students."""
    from huggingface_hub.constants import ENDPOINT  # the hub's address, or HF_ENDPOINT

    folder = args.output or Path("models") / args.model.rsplit("/", 1)[-1]
    for name in BERT_FILES:
        fetch(f"{(args.mirror or ENDPOINT).rstrip('/')}/{args.model}/resolve/main/{name}", folder / name)
    print(next_lines(after_bert(folder), "then"))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ToolParser(
        prog="python -m utils.download",
        description="Fetches the plugins or the corpus of the original release, or a BERT.",
    )
    commands = parser.add_subparsers(dest="what", required=True)
    plugin = commands.add_parser("plugin", aliases=["plugins"], help="the pre-trained plugins (ratio 4)")
    plugin.add_argument("--size", choices=("base", "large"), default="base", help="of the T5 (default: base)")
    plugin.set_defaults(run=fetch_plugin)
    corpus = commands.add_parser("corpus", help="the pre-training corpus, one span of about 128 words per line")
    corpus.set_defaults(run=fetch_corpus)
    for command in (plugin, corpus):
        where = command.add_mutually_exclusive_group()
        command.add_argument("--url", group=where, help="the file's address, if it has moved")
        command.add_argument(
            "--mirror", group=where, default=PUBLISHED, help=f"the release's address (default: {PUBLISHED})"
        )
        command.add_argument("--sha256", metavar="HEX", help="refuse a file with another checksum")
    bert = commands.add_parser("bert", help="a pre-trained BERT of the Hugging Face hub, as a directory")
    bert.add_argument("--model", default=BERT, metavar="ID", help=f"its name on the hub (default: {BERT})")
    bert.add_argument("--mirror", help="the hub's address (default: HF_ENDPOINT, or the hub's own)")
    bert.set_defaults(run=fetch_bert)
    for command in (plugin, corpus, bert):
        command.add_argument(
            "--output_dir",
            dest="output",
            type=Path,
            metavar="DIR",
            help="where to (default: where the launchers look; bert: models/NAME)",
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    args = parse(arguments)
    run_as_script(lambda: args.run(args), args.debug)


if __name__ == "__main__":
    main()
