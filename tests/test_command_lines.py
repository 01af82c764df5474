"""Every script and tool: help and mistakes are answered at once, and flags are understood in all their spellings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from utils.arguments import MODEL, PLACE, Parser, Reading
from utils.arguments.reading import looking
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
ENTRY_SCRIPTS = ("train_t5.py", "general_distill.py", "task_distill.py")
#: Libraries that take seconds to load.
HEAVY = ("torch", "transformers", "datasets", "accelerate", "sklearn", "scipy", "numpy", "tokenizers", "model")
#: Called by another one or by a launcher, never by a user.
INTERNAL = ("utils.export.probe", "utils.warm")
#: The same: servers of other libraries, which `benchmarks.serve_peers` installs and starts.
SERVERS = "benchmarks.peers."
#: Run in a process of its own: what each command line of standard input answers, and what is loaded in the end.
ASK = """
import contextlib, io, json, runpy, sys, warnings
warnings.simplefilter("ignore")  # of modules that another tool has loaded already
found, heavy = [], sys.argv[1:]
for tool, words in json.load(sys.stdin):
    out, err, sys.argv = io.StringIO(), io.StringIO(), [tool, *words]
    code = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            (runpy.run_path if tool.endswith(".py") else runpy.run_module)(tool, run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([found, [name for name in heavy if name in sys.modules]]))
"""


def tools() -> list[str]:
    """The scripts of the root and every module outside the tests that can be called by `python -m`."""
    found = sorted(file.name for file in ROOT.glob("*.py"))
    for folder in sorted(file.parent for file in ROOT.glob("*/__init__.py") if file.parent.name != "tests"):
        for file in sorted(folder.rglob("*.py")):
            if '\nif __name__ == "__main__":\n' in file.read_text(encoding="utf-8"):
                parts = file.relative_to(ROOT).with_suffix("").parts
                found.append(".".join(parts[:-1] if parts[-1] == "__main__" else parts))
    return [name for name in found if name not in INTERNAL and not name.startswith(SERVERS)]


def ask(commands: list[tuple[str, list[str]]]) -> tuple[list[tuple[int, str, str]], list[str]]:
    """Exit code, output and errors of each command, and the heavy libraries that were loaded."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, *HEAVY],
        input=json.dumps(commands),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: Any
    answers, loaded = json.loads(done.stdout.splitlines()[-1])
    return [tuple(answer) for answer in answers], loaded


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What `--help` of each tool prints; nothing heavy is loaded for it."""
    names = tools()
    answers, loaded = ask([(name, ["--help"]) for name in names])
    assert loaded == []
    for name, (code, text, errors) in zip(names, answers, strict=True):
        assert code == 0 and text.startswith("usage: ") and errors == "", (name, code, errors)
    return {name: text for name, (_, text, _) in zip(names, answers, strict=True)}


def flags_in(text: str) -> list[str]:
    """The flags that a help text lists."""
    return [flag for flag in re.findall(r"^  (?:-h, )?(--\w[\w-]*)", text, re.MULTILINE) if flag != "--help"]


def test_help_shows_each_flag_once_and_with_underscores(helps: dict[str, str]) -> None:
    """One canonical spelling per flag, in every tool."""
    assert len(helps) > 25
    for name, text in helps.items():
        flags = flags_in(text)
        assert len(set(flags)) == len(flags) and not [flag for flag in flags if "-" in flag[2:]], name


def test_a_wrong_flag_is_one_sentence_without_the_libraries(helps: dict[str, str]) -> None:
    """Exit code 2 and one line on standard error, in every tool."""
    answers, loaded = ask([(name, ["--no-such-flag", "3"]) for name in helps])
    for name, (code, text, errors) in zip(helps, answers, strict=True):
        assert code == 2 and text == "" and errors.count("\n") == 1, (name, code, errors)
        assert errors.startswith("error: Not understood: --no-such-flag"), (name, errors)
    assert loaded == []


_TASK = ("task_distill.py", "--task_name", "sst2", "--data_dir", ".", "--teacher_model", "t", "--output_dir", "o")
#: Command lines whose flags exist and cannot be, and what is told.
REFUSED = (
    (*_TASK, "--mode", "distill", "--layer_or_sparsity", "1K"),
    (*_TASK, "--mode", "distill", "--layer_or_sparsity", "tiny"),
    (*_TASK, "--mode", "distill", "--layer_or_sparsity", "90S", "--model_type", "sparsebrt"),
    (*_TASK, "--mode", "maxidisc", "--layer_or_sparsity_path", "80S,4L"),
    (*_TASK, "--mode", "minidisc", "--axis", "layers", "--target", "0L"),
    (*_TASK, "--mode", "minidisc", "--grid", "50,sixty"),
    (*_TASK, "--mode", "minidisc", "--target_sparsity", "91"),
    ("benchmarks.plugin_speed", "--shapes", "8by128"),
    ("benchmarks.decomposed_speed", "--ranks", "72"),
    ("benchmarks.engines", "--steps", "1"),
    ("utils.plan", "--model", "x", "--budget", "macs<=0.5x", "--batch", "0"),
    ("serving", "--model", "x", "--port", "99999999"),
)


def test_a_value_that_cannot_be_is_one_sentence_without_the_libraries() -> None:
    """A scale, a path of scales, a grid, ranks, shapes, a port: each is read before anything heavy is loaded."""
    answers, loaded = ask([(tool, list(words)) for tool, *words in REFUSED])
    for command, (code, text, errors) in zip(REFUSED, answers, strict=True):
        assert code == 2 and text == "" and errors.count("\n") == 1 and "Traceback" not in errors, (command, errors)
    assert loaded == []


#: What is to be read, by the flag that names it, in every tool that reads something; each with the flags it needs.
ABSENT: tuple[tuple[str, str, str], ...] = (
    ("train_t5.py", "--data_dir --model_config --checkpoint --plugin_path", "--task_name sst2 --output_dir o"),
    ("general_distill.py", "--pregenerated_data --valid_data --teacher_model --student_model", "--output_dir o"),
    ("task_distill.py", "--data_dir --teacher_model --student_model", "--task_name sst2 --output_dir o"),
    ("run_glue.py", "--data_dir --student_model", "--task_name sst2 --output_dir o --do_eval"),
    ("data_augmentation.py", "--pretrained_bert_model --data_dir --glove_embs", "--task_name sst2"),
    ("pregenerate_training_data.py", "--train_corpus --bert_model", "--output_dir o"),
    ("serving", "--model --plugins --token_file", ""),
    ("utils.cost", "--model", ""),
    ("utils.quantize", "--model", "--output_dir o"),
    ("utils.export", "--model --plugin_path", "--format card --output o.md"),
    ("utils.plan", "--model --whole --backbone --data_dir", "--budget macs<=0.5x"),
    ("utils.scaling", "--recorded", ""),
    ("utils.report", "--dense", "."),
    ("utils.embedded", "--extra_text", ""),
    ("utils.studies.tucker", "--data_dir --text --backbone", ""),
    ("utils.studies.minidisc", "--data_dir --wnut --backbone --teachers", ""),
    ("utils.studies.axes", "--data_dir --backbone", ""),
    ("utils.studies.variator", "--data_dir --corpus --backbone", ""),
    ("utils.studies.composition", "--data_dir --sources", ""),
    ("utils.studies.serving", "--data_dir --backbone", ""),
    ("benchmarks.serve_load", "--model --plugins --data_dir", ""),
    ("benchmarks.serve_peers", "--model --data_dir", ""),
    ("utils.convert_t5", "", "/no/such/place out"),
    ("utils.make_corpus", "", "/no/such/place --output train.txt"),
    ("utils.submission", "", "/no/such/place"),
    ("utils.report", "", "/no/such/place"),
)


def test_what_is_not_there_is_told_with_its_flag_without_the_libraries(tmp_path: Path) -> None:
    """All of a call's paths at once, in one line, in every script and tool; also a link that leads nowhere."""
    (tmp_path / "link").symlink_to("nowhere")
    commands = [
        (tool, [*more.split(), *(word for flag in flags.split() for word in (flag, place))])
        for place in ("/no/such/place", str(tmp_path / "link"))
        for tool, flags, more in ABSENT
    ]
    answers, loaded = ask(commands)
    for (tool, words), (code, text, errors) in zip(commands, answers, strict=True):
        assert code == 2 and text == "" and errors.count("\n") == 1, (tool, words, errors)
        for word, place in pairwise(words):
            if word.startswith("--") and place.startswith("/"):
                told = "is a link to nowhere, which does not exist" if "link" in place else "does not exist"
                assert f"{word} {place} {told}" in errors, (tool, errors)
        assert "does not exist" in errors or "link" in words[-1]
    assert loaded == []


@pytest.mark.parametrize("name", ["t5-base", "google/t5-v1_1-base", "bert-base-uncased", "a.b_c"])
def test_names_of_the_hub_and_words_are_no_paths_where_they_are_understood(name: str, tmp_path: Path) -> None:
    """`--teacher_model bert-base-uncased`, `--data_dir hub`, `--plugin_path none`, `--plugins TASK=DIR`."""
    assert MODEL.problem(name) is None and PLACE.problem(name) == f"{name} does not exist"
    assert Reading(words=("hub",)).problem("hub") is None and PLACE.problem("hub") is not None
    assert Reading(named=True).problem(f"sst2={tmp_path}") is None
    assert Reading(named=True).problem("sst2=/no/such") == "/no/such does not exist"
    for wrong in ("/no/such", "a/b/c", "./t5-base", "runs/", "~/no/such/model"):
        assert MODEL.problem(wrong) == f"{wrong} does not exist"


def test_a_default_and_a_command_line_of_elsewhere_are_not_looked_at() -> None:
    """Only what this process was given has to be there: not a default, nor a line that is parsed for its values."""
    parser = Parser()
    parser.add_argument("--data_dir", type=Path, reads=PLACE, default=Path("/no/such/default"))
    assert parser.parse_args(["--data_dir", "/no/such"]).data_dir == Path("/no/such")
    with looking():
        assert parser.parse_args([]).data_dir == Path("/no/such/default")
        with pytest.raises(UserError, match=r"^--data_dir /no/such does not exist\.$"):
            parser.parse_args(["--data-dir", "/no/such"])


def test_hyphens_are_understood_in_every_flag_of_every_tool(helps: dict[str, str]) -> None:
    """What `--help` shows with underscores works with hyphens, and no tool takes parts of names."""
    commands = [
        (name, [flag.replace("_", "-"), "--help"])
        for name, text in helps.items()
        for flag in flags_in(text)
        if "_" in flag
    ]
    answers, loaded = ask(commands)
    for command, (code, _, errors) in zip(commands, answers, strict=True):
        assert code in (0, 2) and "Not understood" not in errors, (command, errors)
    assert loaded == []


#: Canonical flag -> spellings that users know from the original releases, from Transformers, and by habit.
KNOWN = {
    "--output_dir": ("--output-dir", "--output-path", "--output_path", "--output"),
    "--data_dir": ("--data-dir", "--data-path", "--data_path", "--data"),
    "--task_name": ("--task-name", "--dataset", "--task"),
    "--max_seq_length": ("--max-seq-length", "--max-input-length", "--max_length", "--length"),
    "--seed": ("--random-seed", "--random_seed"),
    "--num_train_epochs": ("--num-train-epochs", "--epochs"),
    "--learning_rate": ("--learning-rate", "--lr"),
    "--train_batch_size": ("--train-batch-size", "--batch-size", "--per_device_train_batch_size"),
    "--batch": ("--batch-size", "--batch_size"),
    "--eval_batch_size": ("--per_device_eval_batch_size",),
    "--gradient_accumulation_steps": ("--grad-accumulation", "--gradient-accumulation-steps"),
    "--max_steps": ("--training-step", "--max-steps"),
    "--keep_checkpoints": ("--save_total_limit",),
    "--clip_grad": ("--max_grad_norm",),
    "--model": ("--model_name_or_path",),
    "--model_config": ("--model_name_or_path", "--model-config"),
}


def test_the_usual_names_of_a_flag_are_understood_wherever_it_is(helps: dict[str, str]) -> None:
    """The originals' names, those of Transformers' scripts and the canonical ones, in every tool that has the flag."""
    commands = [
        (name, [spelling, "--help"])
        for name, text in helps.items()
        for flag in flags_in(text)
        for spelling in KNOWN.get(flag, ())
    ]
    assert len({name for name, _ in commands}) > 10
    for command, (_, _, errors) in zip(commands, ask(commands)[0], strict=True):
        assert "Not understood" not in errors, (command, errors)


@pytest.mark.parametrize("script", ENTRY_SCRIPTS)
def test_entry_scripts_show_the_canonical_names(script: str, helps: dict[str, str]) -> None:
    """The same words for the same things in all of them."""
    flags = flags_in(helps[script])
    canonical = {"--output_dir", "--max_seq_length", "--seed", "--num_train_epochs", "--learning_rate", "--max_steps"}
    assert canonical <= set(flags)
    assert not {"--output_path", "--random_seed", "--lr", "--epochs", "--dataset", "--data_path"} & set(flags)
