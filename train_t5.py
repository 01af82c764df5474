"""Variator: fine-tune, pre-train, adapt and validate a T5 with compression plugins.

    python train_t5.py --help
    python train_t5.py --task_name sst2 --data_dir data/glue --model_config t5-base --output_dir checkpoints/sst2
    python train_t5.py --task_name sst2 --data_dir data/glue --model_config t5-base --checkpoint checkpoints/sst2/best \
        --distil hidden --mux_num 4 --plugin_path checkpoints/wiki/base/best --output_dir checkpoints/sst2-mux
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from utils.variator.arguments import (
    PluginArguments,
    TaskArguments,
    choose_decoder_start,
    parse_arguments,
    wants_plugins,
)

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse_arguments)  # before the libraries load

from model import PluginConfig, find_edit
from model.compression import apply_edit, edits_of
from model.delta import save_delta
from model.lora import LoraConfig
from model.plugin.objective import PluginObjective, freeze_for
from utils.arguments import (
    EvaluationArguments,
    OptimisationArguments,
    RunArguments,
    as_json,
)
from utils.arguments.settings import runtime_for, trainer_config
from utils.engine import RunDirectory, Trainer
from utils.engine.optimisation import Schedule
from utils.errors import run_as_script
from utils.going_on import RESUME
from utils.hints import next_lines
from utils.loading import Loaded, check_token, load_t5, set_dropout, write_task_file
from utils.measured import circumstances
from utils.next_steps import after_t5
from utils.outputs import guard
from utils.variator.data import DataRequest, TaskData, build_data
from utils.variator.evaluation import Evaluator
from utils.variator.plugins import attach_plugins, plugin_file, plugin_source
from utils.variator.report import CostSettings, cost_row, format_table, lengths_of
from utils.writing import write_json


class Job:
    """One call of the script: everything that both modes need."""

    def __init__(
        self,
        task: TaskArguments,
        plugin: PluginArguments,
        optimisation: OptimisationArguments,
        evaluation: EvaluationArguments,
        run: RunArguments,
    ) -> None:
        assert task.model_config and task.dataset and task.data_path and run.output_path
        guard("train_t5", task, plugin, run)
        self.task, self.plugin, self.run = task, plugin, run
        self.optimisation, self.evaluation = optimisation, evaluation
        if run.num_workers:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the library warns of forks otherwise
        self.runtime = runtime_for(run, "t5")
        arguments = as_json(task, plugin, optimisation, evaluation, run)
        self.loaded: Loaded = load_t5(task.model_config, task.checkpoint)
        self.model: Any = self.loaded.model
        if plugin.delta_tuning and find_edit(self.model, LoraConfig) is None:
            apply_edit(self.model, LoraConfig())
        self.plugin_source = plugin_source(plugin, task.checkpoint) if wants_plugins(plugin) else None
        self.untrained = self.plugin_source is None and find_edit(self.model, PluginConfig) is None
        self.ratios = attach_plugins(self.model, plugin, self.plugin_source) if wants_plugins(plugin) else ()
        set_dropout(self.model, task.dropout)
        self.model.to(self.runtime.device)
        self.decoder_start = choose_decoder_start(task, self.loaded.decoder_start)
        check_token(self.decoder_start, self.model, "--decoder_start")
        request = DataRequest(
            task.dataset,
            task.data_path,
            task.max_input_length,
            optimisation.batch_size,
            self.decoder_start,
            task.logit_scale,
            task.mode == "train",
            run.num_workers,
        )
        self.data: TaskData = build_data(request, self.loaded.tokenizer, self.model.config, self.runtime)
        path, rank, world_size = run.output_path, self.runtime.rank, self.runtime.world_size
        # Together: the others look for checkpoints only after an overwritten run is gone.
        self.directory = self.runtime.together(
            lambda: RunDirectory(
                path,
                arguments,
                run.resume,
                run.overwrite,
                rank == 0,
                world_size,
                run.allow_changed_data,
                self.runtime.choice.fields,
            )
        )
        self.evaluator = Evaluator(self.runtime, self.model, self.loaded.tokenizer, self.data, evaluation.valid_batches)

    def train(self) -> None:
        """Fit, keep the best, and say what was made."""
        assert self.data.train is not None and self.task.dataset is not None
        ratios = self.ratios if self.plugin.distil != "no" else ()
        freeze_for(self.model, self.plugin.distil, self.plugin.delta_tuning, ratios)
        objective = PluginObjective(self.model, self.data.head, self.plugin.distil, ratios, self.plugin.task_ratio)
        schedule: Schedule = "linear" if self.task.dataset == "wiki" else "constant"
        trainer = Trainer(
            self.runtime,
            objective,
            self.data.train,
            trainer_config(self.optimisation, self.evaluation, schedule),
            self.directory,
            lambda: self.evaluator.at_ratios(ratios),
            self.data.task.selection_metric,
            self.save_best,
            valid=[self.data.valid],
        )
        self.announce(ratios)
        progress = trainer.fit()
        if self.runtime.is_main:
            result = {
                "mode": "train",
                "dataset": self.task.dataset,
                "metric": self.data.task.selection_metric,
                "best_value": progress.best_value,
                "best_step": progress.best_step,
                "steps": progress.step,
                "tokens": progress.tokens,
                "train_seconds": progress.seconds,
                **self.runtime.choice.fields,
            }
            write_json(self.directory.path / "result.json", result)
            print(f"made: {self.directory.best}\n{self.next_commands()}")

    def save_best(self, directory: Path) -> None:
        """Plugins or LoRA alone where only they were trained, else the whole model with its tokenizer."""
        assert self.task.dataset is not None
        write_task_file(directory, self.task.dataset, self.decoder_start, self.task.logit_scale)
        if self.plugin.distil != "no":
            save_delta(self.model, "plugin", directory, {"dataset": self.task.dataset})
        elif self.plugin.delta_tuning:
            save_delta(self.model, "lora", directory, {"dataset": self.task.dataset})
        else:
            self.model.save_pretrained(directory)
            self.loaded.tokenizer.save_pretrained(directory)

    def validate(self) -> None:
        """Evaluate the dense model and every ratio; print and save the table."""
        if self.runtime.is_main:
            print("".join(f"warning: {remark}\n" for remark in self.directory.remarks), end="", flush=True)
        settings = CostSettings(batch=8, length=min(128, self.task.max_input_length))
        lengths = lengths_of(self.data)
        rows = []
        for ratio in (1, *self.ratios):
            name = "dense" if ratio == 1 else f"k={ratio}{' untrained' if self.untrained else ''}"
            metrics = self.evaluator.at_ratio(ratio)
            costs: dict[str, Any] = {"ratio": ratio}
            if self.task.costs:
                file = plugin_file(self.plugin_source, ratio, self.task.checkpoint)
                costs = cost_row(self.model, ratio, lengths, self.runtime, settings, file)
            rows.append({"name": name, **metrics, **costs})
        if self.runtime.is_main:
            metric = self.data.task.selection_metric
            write_json(
                self.directory.path / "result.json",
                {
                    "mode": "valid",
                    "dataset": self.task.dataset,
                    "metric": metric,
                    "rows": rows,
                    **self.runtime.choice.fields,
                    "measured": circumstances(self.runtime.device, self.runtime.precision),
                },
            )
            print("\n".join(self.runtime.choice.lines))
            print(format_table(rows, metric))
            print(
                f"{len(lengths)} validation rows, mean {sum(lengths) / len(lengths):.1f} tokens; "
                f"latency of one forward of {settings.batch} x {settings.length} "
                f"in {self.runtime.precision} on {self.runtime.device}"
            )
            print(f"made: {self.directory.path / 'result.json'}\n{self.next_commands()}")

    def announce(self, ratios: tuple[int, ...]) -> None:
        """Say what this stage does."""
        if not self.runtime.is_main:
            return
        trained = (
            "plugins at k = " + ", ".join(map(str, ratios))
            if ratios
            else ("LoRA" if self.plugin.delta_tuning else "the whole T5")
        )
        edits = " + ".join(e.kind for e in edits_of(self.model)) or "none"
        print(
            f"{self.task.dataset}: training {trained} of {self.task.checkpoint or self.task.model_config} "
            f"(edits: {edits}) with --distil {self.plugin.distil} in {self.runtime.precision} on "
            f"{self.runtime.device}, {self.runtime.world_size} process(es)",
            flush=True,
        )

    def next_commands(self) -> str:
        """What uses what was made."""
        optimisation = self.optimisation
        return next_lines(
            after_t5(self.task, self.plugin, self.run, optimisation.batch_size, optimisation.training_step)
        )


def main(arguments: list[str] | None = None) -> None:
    """Parse, build, fit or validate."""
    job = Job(*parse_arguments(arguments))
    job.train() if job.task.mode == "train" else job.validate()


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv, goes_on=RESUME)
