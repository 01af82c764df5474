"""A Python that has loaded the libraries already: stages that follow one another need not load them each.

    python -m utils.warm SOCKET                        # loads them, then forks a process per request, until stdin ends
    python -P -S utils/warm.py SOCKET train_t5.py …    # asks for one, and is to its caller what that process is

The second one starts in milliseconds. It passes its directory, environment, standard streams and signals on, and ends
as the process ends; without a server it becomes an ordinary Python with the same words. `scripts/processes.sh` uses it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

#: What a caller passes on; SIGINT too, as the server hears nothing of the terminal.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
_POLL_S = 0.02
_SIGNAL_POLL_S = 0.2
_LENGTH_BYTES = 4


def ask(path: str, words: Sequence[str]) -> int:
    """Have `words` run by the server at `path`, and wait for the end; gives the exit status as a shell has it."""
    with socket.socket(socket.AF_UNIX) as talk:
        try:
            talk.connect(path)
        except OSError:
            os.execv(sys.executable, [sys.executable, *words])
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until they can be passed on
        ignored = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
        request = {"words": list(words), "cwd": os.getcwd(), "environment": dict(os.environ), "ignored": ignored}
        content = json.dumps(request, allow_nan=False).encode("utf-8", "surrogateescape")
        streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (0, 1, 2)))]
        talk.sendmsg([len(content).to_bytes(_LENGTH_BYTES, "big")], streams)
        talk.sendall(content)
        for number in _SIGNALS:
            if number not in ignored:
                signal.signal(number, lambda given, _: talk.sendall(bytes([given])))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        # A signal just before a call that waits for ever would be handled after it: so none waits for ever.
        while not select.select([talk], [], [], _SIGNAL_POLL_S)[0]:
            pass
        answer = talk.recv(1)
    return answer[0] if answer else 1


class Server:
    """Runs one request after the other; ends with its standard input, and by no signal that stops a run."""

    def __init__(self, path: str) -> None:
        for number in _SIGNALS:  # a scheduler sends them to every process of a job, and the run needs this one
            signal.signal(number, signal.SIG_IGN)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self._path = path

    def serve(self) -> None:
        """Answer until standard input ends, which its caller holds open."""
        waiting: list[Any] = [0, self._listening]
        while True:
            ready, _, _ = select.select(waiting, [], [])
            if 0 in ready and not os.read(0, 1):
                break
            if self._listening in ready:
                talk, _ = self._listening.accept()
                with talk, contextlib.suppress(OSError):  # a caller that is gone hears nothing
                    self._answer(talk)
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _answer(self, talk: socket.socket) -> None:
        header, ancillary, _, _ = talk.recvmsg(_LENGTH_BYTES, socket.CMSG_SPACE(3 * array.array("i").itemsize))
        streams = array.array("i")
        for _, _, data in ancillary:
            streams.frombytes(data)
        content = b""
        while len(content) < int.from_bytes(header, "big"):
            content += talk.recv(1 << 16)
        worker = os.fork()
        if worker == 0:
            talk.close()
            self._listening.close()
            _become(json.loads(content.decode("utf-8", "surrogateescape")), streams)
        for stream in streams:
            os.close(stream)
        status = _attend(worker, talk)
        talk.sendall(bytes([status]))


def _attend(worker: int, talk: socket.socket) -> int:
    """Pass signals on until the worker ends; it is told to end when its caller is gone."""
    listening: list[Any] = [talk]
    while True:
        ready, _, _ = select.select(listening, [], [], _POLL_S)
        if ready:
            given = talk.recv(1)
            if not given:
                listening = []
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, given[0] if given else signal.SIGTERM)
        ended, status = os.waitpid(worker, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> NoReturn:
    """The requested process, from here to its end."""
    import atexit
    import runpy

    code: Any = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        for number in _SIGNALS:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if number in request["ignored"] else usual)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        words = request["words"]
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code or 0)


def main() -> None:
    """Server or caller; see above."""
    path, *words = sys.argv[1:] or [""]
    if path in ("-h", "--help"):
        print(str(__doc__).strip())
        return
    if not path or path.startswith("-"):
        print(f"error: expected the path of a socket, found {path or 'nothing'}; --help tells more.", file=sys.stderr)
        raise SystemExit(2)
    if words:
        raise SystemExit(ask(path, words))
    os.setsid()  # out of reach of the terminal: callers pass on what they hear
    server = Server(path)  # callers wait from here on

    import task_distill  # noqa: F401
    import train_t5  # noqa: F401

    server.serve()


if __name__ == "__main__":
    main()
