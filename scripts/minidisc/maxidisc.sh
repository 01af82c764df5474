#!/usr/bin/env bash
# Distils along a path of teacher assistants; of several paths, which are compared, the best student is kept.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

begin "usage: bash scripts/minidisc/maxidisc.sh MODEL TASK [--layer_or_sparsity_path 80,90S] [flags of task_distill.py]
  Several paths are separated by ; as in '70,90S;80,90S'. Reads what sparsification.sh made; writes
  checkpoints/minidisc/NAME/TASK/maxidisc-PATH. --dry-run prints the commands, --overwrite begins anew." "$@"
need_sparsified

path="$(value_of --layer-or-sparsity-path 80,90S)"
schedule_stage "distillation on $task along $path" "$folder/maxidisc-$(scale_name "$path")" \
    --mode maxidisc --layer_or_sparsity_path "$path"
