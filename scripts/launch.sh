#!/usr/bin/env bash
# Starts an entry script on all GPUs of this machine, or on those of several machines: run it once on each of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage="usage: bash scripts/launch.sh [--dry-run] SCRIPT [flags of SCRIPT]
  SCRIPT   train_t5.py, general_distill.py, task_distill.py
  Environment: GPUS (such as 0,2; default: all visible), PROCESSES (per machine; default: one per GPU),
  and for several machines, the same on each but for NODE_RANK:
  NNODES (default 1), NODE_RANK (0 … NNODES-1), MASTER_ADDR (the machine of NODE_RANK 0), MASTER_PORT (default 29500)"

fail() {
    echo "error: $*" >&2
    exit 2
}

dry_run=0
if [[ "${1:-}" == --dry-run || "${1:-}" == --dry_run ]]; then
    dry_run=1
    shift
fi
case "${1:-}" in
-h | --help) echo "$usage" && exit 0 ;;
"") echo "$usage" >&2 && exit 2 ;;
train_t5.py | general_distill.py | task_distill.py) ;;
*) fail "$1: unknown; known: train_t5.py general_distill.py task_distill.py" ;;
esac

if [[ $dry_run == 1 ]]; then
    PYTHON="${PYTHON:-python}"
elif [[ -z "${PYTHON:-}" ]]; then
    source scripts/env.sh
fi

# The number of GPUs that the processes of this machine can use.
num_gpus() {
    if [[ -n "${NUM_GPUS:-}" ]]; then
        echo "$NUM_GPUS"
    elif [[ -n "${CUDA_VISIBLE_DEVICES+set}" ]]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -cvE '^(-1)?$' || true
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true
    else
        echo 0
    fi
}

[[ -z "${GPUS:-}" ]] || export CUDA_VISIBLE_DEVICES="$GPUS"
processes="${PROCESSES:-$(num_gpus)}"
[[ $processes -ge 1 ]] || processes=1
nodes="${NNODES:-1}"

if [[ $nodes -gt 1 ]]; then
    [[ -n "${NODE_RANK:-}" && -n "${MASTER_ADDR:-}" ]] ||
        fail "NNODES is $nodes: give NODE_RANK, MASTER_ADDR and, if 29500 is taken there, MASTER_PORT too"
    [[ $NODE_RANK -ge 0 && $NODE_RANK -lt $nodes ]] || fail "NODE_RANK $NODE_RANK: expected 0 to $((nodes - 1))"
    places=(--nnodes "$nodes" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR")
    places+=(--master_port "${MASTER_PORT:-29500}")
else
    places=(--standalone)
fi

command=("$PYTHON")
if [[ $nodes -gt 1 || $processes -gt 1 ]]; then
    command+=(-m torch.distributed.run "${places[@]}" --nproc_per_node "$processes")
fi
command+=("$@")
printf -v shown '%q ' "${command[@]}"
echo "+ ${GPUS:+CUDA_VISIBLE_DEVICES=$GPUS }${shown% }"
[[ $dry_run == 1 ]] || exec "${command[@]}"
