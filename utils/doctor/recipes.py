"""Every launcher in a dry run, and every mode of the entry scripts for a step on models of two layers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from utils.doctor.findings import Finding

ROOT = Path(__file__).resolve().parent.parent.parent
#: Launchers with the words of the embedded default.
LAUNCHERS = (
    "quickstart.sh",
    "wiki.sh tiny",
    "glue/glue.sh tiny sst2",
    "glue/glue-mux.sh tiny sst2",
    "bert/general_distill.sh tiny",
    "bert/task_distill.sh tiny sst2",
    "bert/predict.sh tiny",
    "minidisc/finetuning.sh tiny sst2",
    "minidisc/sparsification.sh tiny sst2",
    "minidisc/distillation.sh tiny sst2",
    "minidisc/maxidisc.sh tiny sst2",
    "minidisc/minidisc.sh tiny sst2",
)
_T5 = "train_t5.py --model_config t5 --train_batch_size 4 --max_seq_length 32"
_T5_STEPS = "--num_train_epochs 1 --max_steps 2 --inspect_step 1 --learning_rate 1e-3"
_SST2 = "--task_name sst2 --data_dir glue"
_TASK = "task_distill.py --task_name sst2 --data_dir glue --max_seq_length 32"
_STEPS = "--max_steps 2 --train_batch_size 4 --inspect_step 1 --learning_rate 1e-3"
#: Processes at a time; most of a recipe is the loading of libraries, on one core.
_AT_ONCE = 2


@dataclass(frozen=True)
class Recipe:
    """A command of an entry script; its words are separated by spaces, its paths are below the temporary folder.

    Attributes:
        made: the file that proves that it worked.
        needs: names of recipes whose output it reads.
    """

    name: str
    command: str
    made: str
    needs: tuple[str, ...] = ()


#: Each behind those whose output it reads, and not at once behind them: two run at a time.
RECIPES = (
    Recipe(
        "T5: pre-train plugins",
        f"{_T5} {_T5_STEPS} --task_name wiki --data_dir corpus --distil hidden --mux_num 2 4 --output_dir wiki",
        "wiki/result.json",
    ),
    Recipe(
        "BERT: pre-generate text",
        "-m utils.pregenerate_training_data --train_corpus documents.txt --bert_model bert --output_dir text "
        "--epochs_to_generate 1 --max_seq_len 32 --line_filter off --split_sentences",
        "text/epoch_0_metrics.json",
    ),
    Recipe("T5: fine-tune", f"{_T5} {_T5_STEPS} {_SST2} --distil no --output_dir tuned", "tuned/result.json"),
    Recipe(
        "BERT: fine-tune",
        f"{_TASK} {_STEPS} --mode finetune --teacher_model bert --output_dir teacher",
        "teacher/result.json",
    ),
    Recipe(
        "T5: adapt plugins",
        f"{_T5} {_T5_STEPS} {_SST2} --distil hidden --checkpoint tuned/best --plugin_path wiki/best --mux_num 2 4 "
        "--output_dir adapted",
        "adapted/result.json",
        ("T5: pre-train plugins", "T5: fine-tune"),
    ),
    Recipe(
        "BERT: decompose and distil on text",
        f"general_distill.py --pregenerated_data text --teacher_model bert --max_seq_length 32 {_STEPS} --use_swap "
        "--rank_layer 4 --rank_condim 8 --rank_dim 8 --init_from_teacher --output_dir general",
        "general/result.json",
        ("BERT: pre-generate text",),
    ),
    Recipe(
        "BERT: sparsify",
        f"{_TASK} --mode sparsify --teacher_model teacher --output_dir sorted",
        "sorted/result.json",
        ("BERT: fine-tune",),
    ),
    Recipe(
        "T5: validate",
        f"{_T5} {_SST2} --mode valid --no_costs --distil no --checkpoint tuned/best --plugin_path adapted/best "
        "--mux_num 2 4 --output_dir valid",
        "valid/result.json",
        ("T5: adapt plugins",),
    ),
    Recipe(
        "BERT: distil on a task",
        f"{_TASK} {_STEPS} --stage both --teacher_model teacher --student_model general --output_dir student",
        "student/prediction/result.json",
        ("BERT: fine-tune", "BERT: decompose and distil on text"),
    ),
    Recipe(
        "BERT: minidisc",
        f"{_TASK} {_STEPS} --mode minidisc --grid 50,90 --target_sparsity 90 --teacher_model sorted --output_dir mini",
        "mini/schedule.json",
        ("BERT: sparsify",),
    ),
    Recipe(
        "BERT: distil at once",
        f"{_TASK} {_STEPS} --mode distill --layer_or_sparsity 90S --teacher_model sorted --output_dir once",
        "once/result.json",
        ("BERT: sparsify",),
    ),
    Recipe(
        "BERT: maxidisc",
        f"{_TASK} {_STEPS} --mode maxidisc --layer_or_sparsity_path 50,90S --teacher_model sorted --output_dir maxi",
        "maxi/schedule.json",
        ("BERT: sparsify",),
    ),
    Recipe(
        "BERT: adapt plugins",
        f"{_TASK} {_STEPS} --mode adapt --mux_num 2 4 --student_model mini --output_dir plugins",
        "plugins/result.json",
        ("BERT: minidisc",),
    ),
    Recipe(
        "BERT: evaluate and predict",
        f"{_TASK} --do_eval --do_predict --no_costs --student_model mini --output_dir evaluated",
        "evaluated/evaluation.json",
        ("BERT: minidisc",),
    ),
)


def check_launchers(root: Path = ROOT, launchers: Sequence[str] = LAUNCHERS) -> Iterator[Finding]:
    """Whether every launcher can say what it would do; gives each finding when it is there."""
    environment = {**os.environ, "PYTHON": sys.executable}
    for launcher in launchers:
        command = ["bash", *f"scripts/{launcher}".split(), "--dry-run"]
        try:
            made = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        except OSError as error:
            yield Finding(f"scripts/{launcher}", "missing", str(error), "see bash above", True)
            continue
        lines = made.stdout.splitlines()
        steps = sum(line.startswith("+ ") for line in lines)
        waits = sum(line.startswith("# missing: ") for line in lines)  # what an earlier launcher makes
        if made.returncode or not (steps or waits):
            remedy = f"look at it: {' '.join(command)}"
            yield Finding(f"scripts/{launcher}", "missing", _last_line(made), remedy, True)
        else:
            yield Finding(f"scripts/{launcher}", "ok", _told(steps, waits), is_needed=True)


def _told(steps: int, waits: int) -> str:
    """What a dry run has said, in a few words."""
    return f"{steps} command(s)" + (f", after {waits} stage(s) of other launchers" if waits else "")


def check_recipes(
    folder: Path, recipes: Sequence[Recipe] = RECIPES, prepare: Callable[[Path], None] | None = None
) -> Iterator[Finding]:
    """Run every recipe in `folder`, each in a process of its own as a user does; gives each finding when it is there.

    Args:
        prepare: makes data and models; by default those of `utils.doctor.tiny`.
    """
    try:
        (prepare or _prepare)(folder)
    except Exception as error:  # whatever is wrong with this machine is what is looked for
        found = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        yield Finding("data and models of two layers", "missing", found, "see torch and the packages above", True)
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # A recipe waits only for earlier ones, which began before it.
        findings: dict[str, Future[Finding]] = {}
        for recipe in recipes:
            needed = {name: findings[name] for name in recipe.needs if name in findings}
            findings[recipe.name] = pool.submit(_run_after, needed, recipe, folder)
        for finding in findings.values():
            yield finding.result()


def _prepare(folder: Path) -> None:
    from utils.doctor.tiny import make_tiny  # it needs torch, which may be what is missing

    make_tiny(folder)


def _run_after(needed: Mapping[str, Future[Finding]], recipe: Recipe, folder: Path) -> Finding:
    for name, finding in sorted(needed.items()):
        if finding.result().state == "missing":
            return Finding(recipe.name, "missing", f"not tried, as it reads what {name!r} makes", "", True)
    return _run(recipe, folder)


def _run(recipe: Recipe, folder: Path) -> Finding:
    script, *words = recipe.command.split()
    command = [sys.executable, *([script] if script == "-m" else [str(ROOT / script)]), *words]
    made = subprocess.run(
        command, cwd=folder, env=_environment(os.environ), capture_output=True, text=True, check=False
    )
    if made.returncode or not (folder / recipe.made).is_file():
        return Finding(recipe.name, "missing", _last_line(made), f"look at it: {recipe.command}", True)
    return Finding(recipe.name, "ok", f"made {recipe.made}", is_needed=True)


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """A process on one core of the CPU that finds the toolkit from any folder, and asks no server for anything."""
    return {
        **{name: value for name, value in own.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _last_line(made: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (made.stderr.strip() or made.stdout.strip()).splitlines() if line.strip()]
    return f"exit code {made.returncode}: {lines[-1] if lines else 'it said nothing'}"
