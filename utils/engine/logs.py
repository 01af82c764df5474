"""What a run tells: a progress bar on a terminal, plain lines otherwise.

log.log, metrics.jsonl and TensorBoard are always written.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from utils.addresses import without_secrets
from utils.errors import writing
from utils.heartbeat import SILENCE_S
from utils.writing import to_json, write_text


class RunLog:
    """Output of one process; silent where `active` is false.

    Args:
        directory: the run directory; None logs to the console only.
        resume_step: on a resume, rows of metrics.jsonl beyond this step are dropped, since they will be written again.
        evaluated_step: of the last evaluation that the checkpoint knows; later ones are done, and written, again. A
            kill may fall between an evaluation's row and its checkpoint.
        clock: in seconds.
    """

    def __init__(
        self,
        directory: Path | None,
        active: bool = True,
        resume_step: int | None = None,
        evaluated_step: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._active = active
        self._directory = directory
        self._text: TextIO | None = None
        self._rows: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._bar: tqdm[Any] | None = None
        self._said_at = self._clock()
        if not active or directory is None:
            return
        with writing(f"the logs in {directory}"):
            directory.mkdir(parents=True, exist_ok=True)
            metrics = directory / "metrics.jsonl"
            if resume_step is not None and metrics.exists():
                _drop_rows_after(metrics, resume_step, resume_step if evaluated_step is None else evaluated_step)
            # Open for the whole run, closed in `close`.
            self._text = open(directory / "log.log", "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            self._rows = open(metrics, "a", encoding="utf-8")  # noqa: SIM115
            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step)

    def line(self, text: str) -> None:
        """One line for the user, kept in log.log."""
        if not self._active:
            return
        text = without_secrets(text)
        self._said_at = self._clock()
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)
        if self._text is not None:
            with writing(f"the logs in {self._directory}"):
                self._text.write(text + "\n")
                self._text.flush()

    def metrics(self, split: str, step: int, values: dict[str, float]) -> None:
        """Numbers of one step, into metrics.jsonl and TensorBoard."""
        if self._rows is not None and self._board is not None:
            with writing(f"the logs in {self._directory}"):
                self._rows.write(to_json({"split": split, "step": step, **values}) + "\n")
                self._rows.flush()
                for key, value in values.items():
                    self._board.add_scalar(f"{split}/{key}", value, step)

    def is_silent(self) -> bool:
        """Whether it is time for a line, as no bar is shown and a step more might make the silence too long."""
        return self._active and self._bar is None and self._clock() - self._said_at >= SILENCE_S / 2

    def start_bar(self, total: int | None, done: int) -> None:
        """Show a bar of optimizer steps if standard error is a terminal."""
        if self._active and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, smoothing=0.05)

    def advance(self, postfix: str | None = None) -> None:
        """One step further; the text behind the bar stays until the next one comes."""
        if self._bar is not None:
            if postfix is not None:
                self._bar.set_postfix_str(postfix, refresh=False)
            self._bar.update(1)

    def stop_bar(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        """Flush and close everything; on a full disk the last lines are lost, silently, as an error is told already."""
        self.stop_bar()
        for handle in (self._text, self._rows, self._board):
            if handle is not None:
                with suppress(OSError):
                    handle.close()


def _drop_rows_after(path: Path, step: int, evaluated_step: int) -> None:
    kept = []
    for row in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(row)
            if values["step"] <= (evaluated_step if values["split"] == "valid" else step):
                kept.append(row)
        except (ValueError, KeyError, TypeError):
            continue  # the kill fell into this line, or somebody wrote it
    write_text(path, "".join(row + "\n" for row in kept))
