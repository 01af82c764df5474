# How an entry script is started, on this machine and on others: sourced by launch.sh and common.sh, never run.
#
# Environment: GPUS (such as 0,2; default: all visible), PROCESSES (per machine; default: one per GPU), NUM_GPUS (taken
# for the number of GPUs), and for several machines, the same on each but for NODE_RANK:
# NNODES (default 1), NODE_RANK (0 … NNODES-1), MASTER_ADDR (the machine of NODE_RANK 0), MASTER_PORT (default 29500).

DRY_RUN=0
NODES=1
[[ -z "${GPUS:-}" ]] || export CUDA_VISIBLE_DEVICES="$GPUS"

# A line that starts this launcher again, as it was started: with the variables below that are set, without --overwrite.
# $@: its command line
own_command() {
    local word variable words=()
    for variable in GPUS PROCESSES NUM_GPUS NNODES NODE_RANK MASTER_ADDR MASTER_PORT MODEL_DIR PREGENERATED \
        RANKS_OF_STUDENT STUDENT QUICKSTART_DATASET PYTHON; do
        [[ -z "${!variable:-}" ]] || printf '%s=%q ' "$variable" "${!variable}"
    done
    for word in bash "$0" "$@"; do
        [[ "$word" == --overwrite ]] || words+=("$word")
    done
    quoted "${words[@]}"
}

# Words as they can be pasted into a shell.
quoted() {
    local shown
    printf -v shown '%q ' "$@"
    echo "${shown% }"
}

fail() {
    echo "error: $*" >&2
    exit 2
}

# $1: a variable that may be unset, $2 and $3: its least and largest value, $4: what else to say
check_number() {
    local value="${!1:-}"
    [[ -z "$value" ]] && return 0
    [[ "$value" =~ ^(0|[1-9][0-9]{0,5})$ && "$value" -ge $2 && "$value" -le $3 ]] ||
        fail "$1 is $value: expected a whole number from $2 to $3${4:-}"
}

# Sets NODES; ends with one sentence on a variable that cannot be meant.
check_places() {
    check_number NUM_GPUS 0 999999
    check_number PROCESSES 1 999999
    check_number MASTER_PORT 1 65535
    check_number NNODES 1 999999
    NODES="${NNODES:-1}"
    [[ $NODES == 1 ]] || [[ -n "${NODE_RANK:-}" && -n "${MASTER_ADDR:-}" ]] ||
        fail "NNODES is $NODES: give NODE_RANK, MASTER_ADDR and, if 29500 is taken there, MASTER_PORT too"
    check_number NODE_RANK 0 $((NODES - 1)) " (NNODES is $NODES)"
}

# The number of GPUs torch can use. A dry run counts those it is told of, and a machine that shows no sign of one need
# not start Python for it.
num_gpus() {
    if [[ -n "${NUM_GPUS:-}" ]]; then
        echo "$NUM_GPUS"
    elif [[ -z "${CUDA_VISIBLE_DEVICES+set}" ]] && ! command -v nvidia-smi >/dev/null; then
        echo 0
    elif [[ $DRY_RUN == 0 ]]; then
        "$PYTHON" -c 'import torch; print(torch.cuda.device_count())'
    elif [[ -n "${CUDA_VISIBLE_DEVICES+set}" ]]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -cvE '^(-1)?$' || true
    else
        nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true
    fi
}

# After check_places. Sets LAUNCH (what stands before an entry script's name) and NUM_PROCESSES (on all machines).
choose_launch() {
    local here="${PROCESSES:-}" places=(--standalone)
    [[ -n "$here" ]] || here="$(num_gpus)"
    [[ -z "${GPUS:-}" || "$here" != 0 ]] || fail "GPUS is $GPUS: torch can use none of them"
    [[ "$here" != 0 ]] || here=1
    if [[ $NODES -gt 1 ]]; then
        places=(--nnodes "$NODES" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR")
        places+=(--master_port "${MASTER_PORT:-29500}")
    fi
    NUM_PROCESSES=$((here * NODES))
    LAUNCH=("$PYTHON")
    [[ $NUM_PROCESSES == 1 ]] || LAUNCH+=(-m torch.distributed.run "${places[@]}" --nproc_per_node "$here")
}

# Prints a command as it can be typed.
show_command() {
    local shown
    printf -v shown '%q ' "$@"
    echo "+ ${GPUS:+CUDA_VISIBLE_DEVICES=$GPUS }${shown% }"
}

# Starts a Python that loads the libraries once for all commands of this shell and of those that it starts, and that
# ends with them (utils/warm.py).
warm_up() {
    local folder
    [[ $DRY_RUN == 0 && -f utils/warm.py ]] || return 0
    folder="$(mktemp -d)"
    exec {WARM_HELD}> >(exec "$PYTHON" -m utils.warm "$folder/socket")
    until [[ -S "$folder/socket" ]] || ! kill -0 $! 2>/dev/null; do sleep 0.05; done
    export WARM_PYTHON="$folder/socket"
}

# $1: a signal, $2: a process, which may have ended or not yet begun
pass_on() {
    [[ -z "$2" ]] || kill -s "$1" "$2" 2>/dev/null || true
}

# Runs a command that hears of SIGTERM, SIGHUP and SIGUSR1 when this shell alone gets them, as a preempted job's does:
# without that, the shell would be gone at once and the command go on unseen. Ctrl-C reaches both; the shell waits until
# the command has saved. A SIGHUP that nohup has this shell ignore stays ignored, by the command too.
attended() {
    local child="" asked="" again status heard=SIGTERM,SIGINT,SIGQUIT,SIGUSR1
    [[ "$(trap -p HUP)" == "trap -- '' SIGHUP" ]] || heard+=,SIGHUP
    # First of all, so that no signal falls between the command's beginning and these.
    trap 'asked=143 again=1; pass_on TERM "$child"' TERM
    trap 'asked=129 again=1; pass_on HUP "$child"' HUP
    trap 'asked=138 again=1; pass_on USR1 "$child"' USR1
    trap 'asked=130 again=1' INT
    # In the background, bash would have it ignore SIGINT and read nothing. The variable is torchrun's.
    (
        trap - INT QUIT
        export TORCHELASTIC_SIGNALS_TO_HANDLE="${TORCHELASTIC_SIGNALS_TO_HANDLE:-$heard}"
        if [[ -S "${WARM_PYTHON:-}" && "$1" == "${PYTHON:-}" && "$2 ${3:-}" =~ ^([a-z_0-9]+\.py|-m utils\.) ]]; then
            exec "$1" -P -S -E utils/warm.py "$WARM_PYTHON" "${@:2}"
        fi
        exec "$@"
    ) <&0 &
    child=$!
    [[ -z "$asked" ]] || pass_on $((asked - 128)) "$child"
    while true; do
        again="" status=0
        wait "$child" || status=$?
        [[ -n "$again" ]] || break # else it was the signal that ended the waiting
    done
    trap - TERM INT HUP USR1
    [[ $status != 137 ]] || echo "error: the command was killed (SIGKILL), as the system does where memory runs out:" \
        "what it saved stays, and the same command goes on there; a smaller batch needs less memory" >&2
    [[ $status != 0 || -z "$asked" ]] || exit "$asked" # it came to its end nevertheless; what follows is not begun
    return "$status"
}
