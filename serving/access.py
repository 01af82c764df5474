"""Who may ask the server: by the `Host` header, and by a token."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from stat import S_IROTH

from utils.errors import UserError

#: This machine, as it calls itself. A page from elsewhere cannot send these in its requests.
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
ANY_HOST = "*"
_PATTERN = re.compile(r"\*|(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*")
_TOKEN = re.compile(r"[\x21-\x7e]{8,}")


class AllowedHosts:
    """Names that the `Host` header may have.

    A page in a browser on this machine can send requests to any address that its own host's name is made to stand
    for, also to one that only this machine reaches; their `Host` header is that name, and so they are refused.

    Args:
        names: `*.example.org` are all below example.org, `*` is any.
        any_address: an address in numbers is allowed too; no name can be made to look like one.
    """

    def __init__(self, names: Sequence[str] = LOOPBACK_NAMES, any_address: bool = False) -> None:
        self._names = {name.lower().removesuffix(".") for name in names}
        self._endings = tuple(name[1:] for name in self._names if name.startswith("*."))
        self._any_address = any_address

    @classmethod
    def of(cls, names: Sequence[str], host: str) -> AllowedHosts:
        """By `--allowed_hosts`; without one this machine's own names, and the address that is listened at."""
        return cls(names) if names else cls((*LOOPBACK_NAMES, host), any_address=_is_everywhere(host))

    def __contains__(self, header: str) -> bool:
        """Whether a header is allowed; a request of HTTP/1.0 may have none, and no browser sends that."""
        if not header or ANY_HOST in self._names:
            return True
        name = _name_in(header)
        if name in self._names or name.endswith(self._endings):
            return True
        return self._any_address and _is_address(name)


def is_host_pattern(name: str) -> bool:
    """Whether `--allowed_hosts` takes it: a name or an address without a port, `*.example.org` or `*`."""
    return _PATTERN.fullmatch(name) is not None


def read_token(path: Path) -> tuple[str, bool]:
    """The token of `--token_file`, and whether everyone on this machine can read it.

    Raises:
        UserError: there is no such file, or no token in it.
    """
    try:
        open_to_all = bool(path.stat().st_mode & S_IROTH)
        lines = path.read_text("utf-8", "strict").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"--token_file {path}: cannot be read: {reason}.") from error
    token = lines[0].strip() if len(lines) == 1 else ""
    if not _TOKEN.fullmatch(token):
        raise UserError(
            f"--token_file {path}: expected a single line with a token of at least 8 printable ASCII characters and no "
            f"blanks, found {_what(lines)}: `openssl rand -hex 32` makes one."
        )
    return token, open_to_all


def has_token(header: bytes, token: bytes) -> bool:
    """Whether an `Authorization` header says `Bearer` and the token; takes as long for each wrong one."""
    scheme, _, given = header.partition(b" ")
    return hmac.compare_digest(given.strip(), token) and scheme.lower() == b"bearer"


def _what(lines: Sequence[str]) -> str:
    return f"{len(lines)} lines" if len(lines) != 1 else "something else"  # never what it says


def _is_everywhere(host: str) -> bool:
    """Whether listening at an address is listening in every network."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        pass
    try:
        return socket.inet_aton(host) == bytes(4)  # also 0 and 0x0
    except OSError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_in(header: str) -> str:
    """The name in a `Host` header, without its port and without the brackets of an address."""
    header = header.strip().lower()
    if header.startswith("["):
        name, bracket, rest = header[1:].partition("]")
        return name if bracket and (not rest or rest.startswith(":")) else ""
    name, _, port = header.partition(":")
    return name.removesuffix(".") if ":" not in port else header
