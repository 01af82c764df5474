#!/usr/bin/env bash
# Tries all assistants in one distillation, takes the one with the best trade-off, and distils the student from it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

begin "usage: bash scripts/minidisc/minidisc.sh MODEL TASK [--target_sparsity 90] [--lam 0.2] [flags of task_distill.py]
  Reads what sparsification.sh made; writes checkpoints/minidisc/NAME/TASK/minidisc-90S with schedule.json (scores of
  all assistants, the choice and its reason) and schedule.png.
  --dry-run prints the commands, --overwrite begins anew." "$@"
need_sparsified

target="$(value_of --target-sparsity 90)"
# The embedded tasks' sizes differ by hundredths of accuracy: with the usual lambda of 0.2 the size alone would decide.
few=()
[[ "$model" == tiny ]] && few=(--grid "60,70,80,$target" --trunc_sparsity 60 --lam 0.02)
schedule_stage "MiniDisc on $task to ${target}S" "$folder/minidisc-${target}S" \
    --mode minidisc --target_sparsity "$target" ${few[@]+"${few[@]}"}
