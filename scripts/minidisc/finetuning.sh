#!/usr/bin/env bash
# Fine-tunes the teacher on a task.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

begin "usage: bash scripts/minidisc/finetuning.sh MODEL TASK [--dry-run] [--overwrite] [flags of task_distill.py]
  MODEL   tiny (embedded: everything is made on the spot), or the hub id or directory of a BERT (or of a T5, with
          --model_type ftenct5_cls)
  TASK    $MINIDISC_TASKS (tiny: $MINIDISC_EMBEDDED_TASKS)
  Writes checkpoints/bert/NAME/TASK/teacher.
  Next: bash scripts/minidisc/sparsification.sh MODEL TASK" "$@"

train_teacher "$model" "$task" "$replace" "${common[@]}"
