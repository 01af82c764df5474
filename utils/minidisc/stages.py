"""A schedule's parts on disk: each is a run directory of its own, made once, and resumed where it was left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.weights import read_json
from utils.arguments import RunArguments
from utils.engine import RunDirectory, Runtime
from utils.engine.run_files import ARGUMENTS_FILE
from utils.engine.runtime import seed_everything
from utils.tucker.training import open_run
from utils.writing import write_json

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Stages:
    """The folder of a schedule, and what its stages have in common.

    Attributes:
        run: of the schedule as a whole.
        recorded: arguments that a stage must not change when it is resumed.
    """

    runtime: Runtime
    run: RunArguments
    recorded: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The schedule's folder."""
        assert self.run.output_path is not None
        return self.run.output_path

    def made(self, name: str) -> dict[str, Any] | None:
        """What a stage that is complete has written."""
        file = self.path / name / RESULT_FILE
        return read_json(file) if file.is_file() else None

    def do(
        self, name: str, what: str, settings: Mapping[str, Any], work: Callable[[RunDirectory], dict[str, Any]]
    ) -> dict[str, Any]:
        """Do a stage unless it is complete; go on in it where it is begun.

        Args:
            name: its folder.
            what: said to the user.
            settings: JSON values that are the stage's own, beside those of the schedule.
            work: gives what result.json is to hold.

        Returns:
            What result.json holds.
        """
        if (found := self.made(name)) is not None:
            self.say(f"{what}: complete in {self.path / name}")
            return found
        folder = self.path / name
        begun = (folder / ARGUMENTS_FILE).is_file()
        self.runtime.barrier()  # nobody makes the folder before all have looked
        self.say(f"{what}: {'goes on in' if begun else ''} {folder}".replace(":  ", ": "))
        own = replace(self.run, output_path=folder, resume=begun and (self.run.resume or True), overwrite=False)
        directory = open_run(self.runtime, own, {**self.recorded, **settings, "output_path": str(folder)})
        seed_everything(self.runtime.seed)  # whatever stages went before, in this process or in one that was killed
        result = work(directory)
        self.runtime.by_main(lambda: write_json(folder / RESULT_FILE, {**result, **self.runtime.choice.fields}))
        return result

    def say(self, text: str) -> None:
        """One line, from the main process."""
        if self.runtime.is_main:
            print(text, flush=True)
