"""The flags that both distillation scripts share, with the original's names beside the toolkit's own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from utils.arguments import HIDDEN, EvaluationArguments, OptimisationArguments, RunArguments, flag
from utils.arguments.spellings import ALIASES
from utils.arguments.values import whole_number
from utils.engine.names import AskedPrecision
from utils.errors import UserError

#: What `--help` says of shared flags here, where T5 has other settings.
TEXTS: Mapping[str, str] = {
    "schedule": "Learning rate after the warm-up.",
    "precision": "Autocast precision. auto: bf16 on GPUs and CPUs that are fast at it, which is timed, and fp32 "
    "elsewhere.",
    "training_step": "End after this many optimizer steps even if epochs are left (the default never does).",
    "batch_size": "Rows per process and optimizer step.",
    "grad_accumulation": "Forward passes that --train_batch_size is divided into.",
    "valid_batches": "Batches of the fixed sample that is evaluated.",
    "num_workers": HIDDEN,
}
#: Flags of the original without effect, and why.
IGNORED: Mapping[str, str] = {
    "loss_scale": "the scale of --fp16 finds itself",
    "cache_dir": "models come from the Hugging Face cache (HF_HOME), and features are made anew in seconds",
    "data_url": "data lie in folders of this machine",
    "train_url": "results lie in --output_dir",
    "init_method": "the launcher says where the processes are",
    "mp": "the launcher says how many processes there are",
}


@dataclass
class BertArguments:
    """Settings of every stage."""

    _argument_group_name = "BERT"

    max_seq_length: int = flag(128, "Longest input in tokens; batches are padded to their own longest row.", least=4)
    do_lower_case: bool = flag(False, "Lower the text's case; without it, the model's tokenizer decides.")
    eval_batch_size: int = flag(32, "Rows of an evaluation batch per process.", least=1)
    warmup_proportion: float = flag(0.1, "Share of the steps that warm up, if --warmup_step is 0.", least=0, below=1)
    distill_layers: Literal["last", "all"] = flag(
        "last",
        "Whose hidden states and attention scores are compared: last layers (the original), or every student layer i "
        "with teacher layer i · Lt / Ls.",
    )
    loss_reduction: Literal["batch_sum", "mean"] = flag(
        "batch_sum", "batch_sum: sum over a batch's rows of per-row means (the original); mean: over the rows too."
    )
    fp16: bool = flag(False, "Short for --precision fp16.")
    no_cuda: bool = flag(False, "Stay on the CPU.")
    local_rank: int = flag(-1, "Given by torch.distributed.launch; the environment says the same, so it is not read.")


@dataclass
class DecompositionArguments:
    """The student's decomposition. Ranks and ops stand in the student's config.json or are given here."""

    _argument_group_name = "decomposition"

    use_swap: bool = flag(False, "Decompose the student before it learns (-use_swap is the same).")
    protocol: Literal["II", "III", "IV"] | None = flag(
        None, "II: each matrix alone; III: shared outer factors; IV: a matrix bank (default)."
    )
    ops: str | None = flag(None, "Which matrices: san (attention), ffn, or san_ffn (default).")
    rank_layer: int | None = flag(None, "Matrices in the bank (protocol IV).")
    rank_condim: int | None = flag(None, "Columns of the left factor (protocols III, IV).")
    rank_dim: int | None = flag(None, "Rows of the right factor; in protocol II the rank of each matrix.")
    embedding_type: str | None = flag(
        None, "Factorise the word embedding too: ket, ketxs, tt or tr (default: what config.json says, if it is these)."
    )
    embedding_order: int | None = flag(None, "Number of its factors (default: by type).")
    embedding_rank: int | None = flag(None, "Its rank (default: by type).")
    from_scratch: bool = flag(
        False,
        "Draw the factors at random instead of decomposing the weights (a control); of a config.json without weights "
        "all there is.",
    )


def in_our_words(arguments: Sequence[str] | None) -> list[str]:
    """The command line, with what the originals write in another way as it is written here.

    `--per_device_train_batch_size` counts the rows of one forward pass, where ours counts those of an optimizer step.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    passes = "gradient_accumulation_steps"
    for field_name, names in (("rows", ["per_device_train_batch_size"]), ("passes", [passes, *ALIASES[passes]])):
        spellings = dict.fromkeys(f"--{s}" for name in names for s in (name, name.replace("_", "-")))
        parser.add_argument(*spellings, dest=field_name, type=whole_number)
    try:
        found, rest = parser.parse_known_args(given)
    except argparse.ArgumentError:
        return given  # the real parser tells what is wrong
    if found.rows is None or found.passes is None:
        return given
    return [*rest, f"--{passes}", str(found.passes), "--train_batch_size", str(found.rows * found.passes)]


def precision_of(run: RunArguments, bert: BertArguments) -> AskedPrecision:
    """`--precision`, or `--fp16`.

    Raises:
        UserError: the two contradict each other.
    """
    if bert.fp16 and run.precision not in ("auto", "fp16"):
        raise UserError(f"--fp16 and --precision {run.precision} contradict each other: give one of them.")
    return "fp16" if bert.fp16 else run.precision


def range_problems(optimisation: OptimisationArguments) -> list[str]:
    """What `utils.arguments.out_of_range` cannot see."""
    if optimisation.grad_accumulation > 0 and optimisation.batch_size % optimisation.grad_accumulation:
        return [
            f"--train_batch_size {optimisation.batch_size} is the rows of one optimizer step per process: it must be "
            f"a multiple of --gradient_accumulation_steps {optimisation.grad_accumulation}"
        ]
    return []


def unused_problems(run: RunArguments, evaluation: EvaluationArguments | None = None) -> list[str]:
    """Shared flags that were given and have no effect here; with `evaluation` those of scripts without a corpus too."""
    problems = []
    if run.num_workers:
        problems.append("--num_workers is for streamed corpora, which BERT does not read: leave it out")
    if evaluation is not None and evaluation.valid_batches:
        problems.append("--valid_batches is for text; on tasks the whole development set is evaluated: leave it out")
    return problems


def micro_batch(optimisation: OptimisationArguments) -> int:
    """Rows of one forward pass: the original divides the batch by the accumulation steps."""
    return optimisation.batch_size // optimisation.grad_accumulation
