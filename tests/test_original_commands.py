"""The commands of the original README, one after the other, with its flags, on a tiny BERT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from model import DecompositionConfig, find_edit
from tests.tiny_bert import TinyBert, edit_config, run_general, run_task
from utils import data_augmentation, pregenerate_training_data

pytestmark = pytest.mark.usefixtures("one_thread")


def test_commands_of_the_original_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, student made by editing a copy's config.json, both distillations, augmentation, fine-tuning, prediction."""
    tiny = TinyBert(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    shutil.copytree("bert", "models/bert-base-uncased")
    shutil.copytree("bert", "models/bert-td-72-384")
    edit_config(Path("models/bert-td-72-384"), rank_layer=9, rank_condim=20, rank_dim=20, ops="san")
    Path("corpus.txt").write_text("\n\n".join(["this film is good\nthe plot of it is bad and dull"] * 12))

    def call(tool: object, command: str) -> None:
        tool(command.split())  # type: ignore[operator]

    call(
        pregenerate_training_data.main,
        "--train_corpus corpus.txt --bert_model models/bert-base-uncased --do_lower_case --epochs_to_generate 3 "
        "--output_dir data/pretraining --max_seq_len 32 --short_seq_prob 0.1 --masked_lm_prob 0.15 "
        "--max_predictions_per_seq 20 --do_whole_word_mask --num_workers 1 --reduce_memory --line_filter off",
    )
    call(
        run_general,
        "--pregenerated_data data/pretraining --teacher_model models/bert-base-uncased "
        "--student_model models/bert-td-72-384 --reduce_memory --do_lower_case --train_batch_size 4 -use_swap "
        "--max_seq_length 32 --num_train_epochs 1 --max_steps 2 --eval_step 1 --learning_rate 5e-5 --output general",
    )
    call(
        data_augmentation.main,
        f"--pretrained_bert_model models/bert-base-uncased --glue_dir {tiny.glue} --task_name SST-2 --N 1",
    )
    task = (
        f"--data_dir {tiny.glue} --task_name SST-2 --max_seq_length 32 --train_batch_size 8 --do_lower_case --seed 42"
    )
    call(
        run_task,
        f"--mode finetune --teacher_model models/bert-base-uncased --output_dir ft {task} --num_train_epochs 1",
    )
    call(
        run_task,
        f"--teacher_model ft --student_model general --output_dir inter --aug_train {task} --num_train_epochs 1 "
        "--gradient_accumulation_steps 2 --cache_dir cache --continue_train",
    )
    call(
        run_task,
        f"--pred_distill --teacher_model ft --student_model inter --output_dir student --aug_train {task} "
        "--learning_rate 3e-5 --num_train_epochs 1 --eval_step 2 --temperature 1 --weight_decay 1e-4 "
        "--warmup_proportion 0.1 --do_eval --do_predict --no-costs",
    )
    model = AutoModelForSequenceClassification.from_pretrained("student/best")
    assert find_edit(model, DecompositionConfig) == DecompositionConfig(
        ops="san", rank_layer=9, rank_condim=20, rank_dim=20
    )
    assert 0 <= json.loads(Path("student/evaluation.json").read_text())["metrics"]["accuracy"] <= 1
    assert Path("student/predictions/SST-2.tsv").is_file()
