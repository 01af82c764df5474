#!/usr/bin/env bash
# Orders the teacher's heads and neurons by their importance: what every pruned student is a part of.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

begin "usage: bash scripts/minidisc/sparsification.sh MODEL TASK [--dry-run] [--overwrite] [flags of task_distill.py]
  Reads the teacher that finetuning.sh made; writes checkpoints/minidisc/NAME/TASK/sparsification, which computes the
  same as the teacher, and prints the parameters at each sparsity.
  Next: bash scripts/minidisc/minidisc.sh MODEL TASK (or distillation.sh, maxidisc.sh)" "$@"
need_teacher

minidisc_settings
train_stage "sparsification on $task" "$folder/sparsification" "$replace" "$teacher/result.json" \
    --mode sparsify --teacher_model "$teacher" "${common[@]}" "${SETTINGS[@]}"
