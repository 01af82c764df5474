#!/usr/bin/env bash
# Distils the teacher into a pruned or layer-dropped student at once.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

begin "usage: bash scripts/minidisc/distillation.sh MODEL TASK [--layer_or_sparsity 90S|4L|DIR] [flags]
  flags  of task_distill.py
  Reads what sparsification.sh made; writes checkpoints/minidisc/NAME/TASK/distillation-90S.
  --dry-run prints the commands, --overwrite begins anew." "$@"
need_sparsified

scale="$(value_of --layer-or-sparsity 90S)"
schedule_stage "distillation on $task to $scale" "$folder/distillation-$(scale_name "$scale")" \
    --mode distill --layer_or_sparsity "$scale"
