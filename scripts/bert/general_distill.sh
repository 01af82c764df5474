#!/usr/bin/env bash
# Decomposes a BERT and distils it on text from itself.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_command_line "usage: bash scripts/bert/general_distill.sh MODEL [--dry-run] [--overwrite] [flags]
  MODEL   tiny (embedded: everything is made on the spot), or the hub id or directory of a BERT
  flags   of general_distill.py
  Reads pre-generated text (data/pregenerated, or PREGENERATED); writes checkpoints/bert/NAME/general.
  Next: bash scripts/bert/task_distill.sh MODEL TASK" 1 "$@"
model="${WORDS[0]}"
use_environment
SCRIPT=general_distill.py

replace=no
[[ "$model" == tiny ]] && replace=yes
need_bert "$model"
need_text "$model"

bert_settings general "$model"
bert_ranks "$model"
student=(--init_from_teacher)
given --student-model && student=()
train_stage "general distillation" "$(bert_folder "$model")/general" "$replace" \
    "$(lines "$(bert_of "$model")/config.json" "$(bert_text "$model")/epoch_0_metrics.json")" \
    --teacher_model "$(bert_of "$model")" --pregenerated_data "$(bert_text "$model")" \
    ${student[@]+"${student[@]}"} "${DECOMPOSITION[@]}" "${SETTINGS[@]}"
