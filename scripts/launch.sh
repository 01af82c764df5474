#!/usr/bin/env bash
# Starts an entry script on all GPUs of this machine, or on those of several machines: run it once on each of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/processes.sh

usage="usage: bash scripts/launch.sh [--dry-run] SCRIPT [flags of SCRIPT]
  SCRIPT      train_t5.py, general_distill.py, task_distill.py
  --dry-run   prints the command instead of running it, wherever it stands
  Environment: GPUS (such as 0,2; default: all visible), PROCESSES (per machine; default: one per GPU),
  and for several machines, the same on each but for NODE_RANK:
  NNODES (default 1), NODE_RANK (0 … NNODES-1), MASTER_ADDR (the machine of NODE_RANK 0), MASTER_PORT (default 29500)"

words=()
for word in "$@"; do
    case "$word" in
    --dry-run | --dry_run) DRY_RUN=1 ;;
    *) words+=("$word") ;;
    esac
done
set -- ${words[@]+"${words[@]}"}
case "${1:-}" in
-h | --help) echo "$usage" && exit 0 ;;
"") echo "$usage" >&2 && exit 2 ;;
train_t5.py | general_distill.py | task_distill.py) ;;
*) fail "$1: unknown; known: train_t5.py general_distill.py task_distill.py" ;;
esac

export STARTED_BY="$(own_command)"
check_places
if [[ $DRY_RUN == 1 ]]; then
    PYTHON="${PYTHON:-python}"
elif [[ -z "${PYTHON:-}" ]]; then
    source scripts/env.sh
fi

choose_launch
show_command "${LAUNCH[@]}" "$@"
[[ $DRY_RUN == 1 ]] || exec "${LAUNCH[@]}" "$@"
