"""Fetches a file: over https, taken up where it broke off, within limits, with a record of what it is beside it."""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from utils.addresses import shown, without_secrets
from utils.arguments import ToolParser
from utils.arguments.values import bounded, number
from utils.errors import UserError, writing
from utils.lock import locked
from utils.writing import publish, write_json

_CHUNK = 1 << 20
_TRIES = 5
_TIMEOUT_S = 30.0
#: Where nothing can be changed on the way: addresses for which http is good enough.
_OWN_HOSTS = ("127.0.0.1", "localhost", "::1")
#: What a commit is called; and the header in which a hub says of which a file is.
COMMIT = re.compile(r"[0-9a-f]{40}")
_COMMIT_HEADER = "X-Repo-Commit"

Say = Callable[[str], None]


class Limits(NamedTuple):
    """What a download may take at most, all attempts together (`--max_gb`, `--max_minutes`)."""

    num_bytes: int = 64 * 10**9
    seconds: float = 24 * 3600.0


def add_limits(parser: ToolParser, most_gb: float) -> None:
    """The flags of `Limits`, with a size that is enough for what a command fetches."""
    parser.add_argument(
        "--max_gb",
        type=bounded(number, above=0, most=1000),
        default=most_gb,
        metavar="GB",
        help=f"refuse what is larger (default: {most_gb})",
    )
    parser.add_argument(
        "--max_minutes",
        type=bounded(number, above=0, most=10080),
        default=1440,
        metavar="M",
        help="give up after so long on a file or data set; the same command goes on (default: 1440)",
    )


def limits_of(args: argparse.Namespace) -> Limits:
    """What the flags say."""
    return Limits(int(args.max_gb * 1e9), args.max_minutes * 60)


@dataclass(frozen=True)
class Fetched:
    """A complete download: where it is, its size and checksum, and the commit that it is of, where a hub says it."""

    path: Path
    num_bytes: int
    sha256: str
    revision: str | None = None


class _Broken(Exception):
    """The connection ended before the file did; trying again may help."""


class _OnlySafely(urllib.request.HTTPRedirectHandler):
    """Follows a server to another address only if that is a safe one too, and notes the commit that it names."""

    revision: str | None = None

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
        _check_address(newurl, f"{shown(req.full_url)} leads to {shown(newurl)}")
        self.note(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def note(self, headers: http.client.HTTPMessage) -> None:
        """The first answer counts: the hub's own, and not that of the store that it leads to."""
        if self.revision is None and COMMIT.fullmatch(found := headers.get(_COMMIT_HEADER, "")):
            self.revision = found


@contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """End what is inside after so long, wherever it waits; only in the main thread, where signals arrive.

    Raises:
        UserError: it has taken so long.
    """

    def stop(*_: Any) -> None:
        raise UserError(f"{what} takes longer than {seconds / 60:,.4g} minutes (--max_minutes)")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 10.0)  # again, where a library swallows the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fetch(
    url: str,
    target: Path,
    *,
    say: Say = print,
    tries: int = _TRIES,
    pause_s: float = 1.0,
    sha256: str | None = None,
    limits: Limits = Limits(),  # noqa: B008  # a tuple, which nobody changes
) -> Fetched:
    """Downloads `url` to `target`, going on where an earlier attempt stopped.

    What has arrived lies in `target`.partial until it is complete; what another call is fetching is waited for, and
    then used. `tries` counts attempts in a row that bring nothing; between them it waits `pause_s` seconds, twice as
    long each time. `sha256` is the checksum that the file must have, if it is known. A name and password in the address
    are sent to its host alone; they and what stands behind `?` are neither told nor recorded.

    Raises:
        UserError: the address is no https address, does not exist, is no file (a web page, nothing at all), or cannot
            be reached; the file is larger than `limits`, or takes longer; it has another checksum, or another than
            before for the same commit; or the disk is full, and the same call goes on when there is room.
    """
    _check_address(url, shown(url))
    if (there := _reused(target, say, sha256)) is not None:
        return there
    with locked(target, waiting=say):
        return _reused(target, say, sha256) or _fetch(url, target, say, tries, pause_s, sha256, limits)


def _reused(target: Path, say: Say, sha256: str | None) -> Fetched | None:
    if (there := _fetched_before(target)) is not None:
        _check_sum(there.sha256, sha256, target)
        say(f"reused {target} ({there.num_bytes:,} bytes, sha256 {there.sha256})")
    return there


def _fetch(url: str, target: Path, say: Say, tries: int, pause_s: float, sha256: str | None, limits: Limits) -> Fetched:
    _keep_what_is_there(target, say)
    say(f"fetching {shown(url)}")
    with writing(target), at_most(limits.seconds, shown(url)):
        partial = target.with_name(f"{target.name}.partial")
        revision = _fetch_all(url, partial, say, tries, pause_s, limits.num_bytes)
        fetched = Fetched(target, _size(partial), _sha256(partial), revision)
        try:
            if not fetched.num_bytes:
                raise UserError(f"{shown(url)}: sends nothing (0 bytes), not a file")
            _check_sum(fetched.sha256, sha256 or _recorded_sum(target, revision), target)
        except UserError:  # what came is nothing to go on with
            _discard(partial)
            raise
        values = {"url": shown(url), "num_bytes": fetched.num_bytes, "sha256": fetched.sha256}
        write_json(_record_of(target), {**values, **({"revision": revision} if revision else {})})
        publish(partial, target)
        _state_of(partial).unlink(missing_ok=True)
    say(f"saved {target} ({fetched.num_bytes:,} bytes, sha256 {fetched.sha256})")
    return fetched


def recorded_revision(target: Path) -> str | None:
    """The commit that a file was fetched of, if its record says one."""
    found = _read_json(_record_of(target)).get("revision")
    return found if isinstance(found, str) and COMMIT.fullmatch(found) else None


def recorded_address(target: Path) -> str:
    """Where a file was fetched from, as it may be shown; "" where there is no record."""
    return str(_read_json(_record_of(target)).get("url", ""))


def _check_address(url: str, told: str) -> None:
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
        if urlsplit(url).port is None and urlsplit(url).netloc.endswith(":"):
            host = None
    except ValueError:
        scheme, host = "", None
    if not (host and (scheme == "https" or (scheme == "http" and host in _OWN_HOSTS))):
        raise UserError(f"{told}: not an https address, and over any other what arrives can be changed on the way")


def _check_sum(found: str, wanted: str | None, target: Path) -> None:
    if wanted is not None and found != wanted.lower():
        raise UserError(
            f"{target}: the file has the SHA-256 {found}, expected {wanted}: it is not the one that was meant"
        )


def _recorded_sum(target: Path, revision: str | None) -> str | None:
    """What the file of this commit was when it was fetched before: a commit does not change."""
    known = _read_json(_record_of(target))
    sha256 = known.get("sha256")
    return sha256 if revision and known.get("revision") == revision and isinstance(sha256, str) else None


def _fetched_before(target: Path) -> Fetched | None:
    """The file as it was recorded, if it is there and the same still."""
    known = _read_json(_record_of(target))
    if not target.is_file() or known.get("num_bytes") != target.stat().st_size:
        return None
    if known.get("sha256") != (found := _sha256(target)):
        return None
    return Fetched(target, target.stat().st_size, found, recorded_revision(target))


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


def _fetch_all(url: str, partial: Path, say: Say, tries: int, pause_s: float, most: int) -> str | None:
    """As many connections as it takes until `partial` is complete; the commit, where one of them names it."""
    failures = 0
    handler = _OnlySafely()
    while True:
        before = _size(partial)
        try:
            _fetch_rest(url, partial, handler, most)
            return handler.revision
        except _Broken as broken:
            failures = 0 if _size(partial) > before else failures + 1
            if failures >= tries:
                raise UserError(
                    f"{shown(url)}: {broken} ({tries} attempts in a row brought nothing); the same command "
                    f"goes on at byte {_size(partial):,}, --url or --mirror names another address"
                ) from broken
            say(f"  {broken}; going on at byte {_size(partial):,}")
            time.sleep(pause_s * 2**failures)


def _request(url: str, headers: dict[str, str]) -> urllib.request.Request:
    """A request; a name and password leave the address, and go to its host, not to where that leads."""
    parts = urlsplit(url)
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
    request = urllib.request.Request(bare, headers=headers)
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    return request


def _fetch_rest(url: str, partial: Path, handler: _OnlySafely, most: int) -> None:
    """One connection: appends what `partial` lacks, or starts again if the server's file is another one."""
    begun = _read_json(_state_of(partial)) if _size(partial) else {}
    headers = {"User-Agent": "compression-toolkit", "Accept-Encoding": "identity"}
    resumes = begun.get("url") == shown(url)
    if resumes:
        headers["Range"] = f"bytes={_size(partial)}-"
        if begun.get("validator"):
            headers["If-Range"] = str(begun["validator"])
    try:
        with urllib.request.build_opener(handler).open(_request(url, headers), timeout=_TIMEOUT_S) as response:
            handler.note(response.headers)
            if response.status != 200 and not (response.status == 206 and resumes):
                raise UserError(f"{shown(url)}: the server answered {response.status} {response.reason}, and no file")
            _receive(url, response, partial, most)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing left to send, or another file by now
            if begun and _size(partial) == begun.get("num_bytes"):
                return
            partial.unlink(missing_ok=True)
            raise _Broken("the server's file has changed, starting again") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _Broken(f"the server answered {error.code}") from error
        said = without_secrets(f"{error.code} {error.reason}")
        raise UserError(f"{shown(url)}: the server answered {said}; is the address right?") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _broken(error) from error


def _broken(error: Exception) -> _Broken:
    reason = getattr(error, "reason", None) or str(error) or type(error).__name__
    return _Broken(f"the connection failed ({without_secrets(str(reason))})")


def _receive(url: str, response: http.client.HTTPResponse, partial: Path, most: int) -> None:
    """Writes the body of an answer; _Broken if it is shorter than announced."""
    if (response.headers.get_content_type() or "").endswith("html"):
        raise UserError(f"{shown(url)}: sends a web page, not a file (a login or an expired link?)")
    resumed = response.status == 206
    if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {_size(partial)}-"):
        partial.unlink()
        raise _Broken("the server sent another part than the one asked for, starting again")
    start = _size(partial) if resumed else 0
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if re.fullmatch(r"\d{1,18}", length, re.ASCII) else None
    _check_size(total or 0, most, url, partial)
    # Only a strong validator promises that two halves belong together (RFC 9110, 13.1.5).
    etag = response.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
    write_json(_state_of(partial), {"url": shown(url), "validator": validator, "num_bytes": total})
    size = start
    with partial.open("ab" if resumed else "wb") as stream:
        while chunk := _read(response):
            if not size and chunk.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
                raise UserError(f"{shown(url)}: sends a web page, not a file (a login or an expired link?)")
            size += len(chunk)
            _check_size(size, most, url, partial)
            stream.write(chunk)
    if total is not None and size < total:
        raise _Broken(f"the connection ended after {size:,} of {total:,} bytes")


def _check_size(size: int, most: int, url: str, partial: Path) -> None:
    """Refuse a file above the limit; what came of it is nothing to go on with."""
    if size > most:
        _discard(partial)
        raise UserError(f"{shown(url)}: larger than {most / 1e9:,.4g} GB (--max_gb)")


def _read(response: http.client.HTTPResponse) -> bytes:
    """What comes next; apart from writing, since either may fail with any of the system's errors."""
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _broken(error) from error


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _state_of(partial).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _state_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _record_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _read_json(path: Path) -> dict[str, Any]:
    """What a record says; nothing where there is none, or a damaged one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
