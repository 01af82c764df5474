# Shared by the launchers: sourced, never run. Afterwards the working directory is the repository root.
#
# Every launcher takes
#   --dry-run   print the commands instead of running them
#   --help
# and passes all other flags on to SCRIPT (train_t5.py), after the defaults of settings.sh: the last one wins.
#
# Environment: MODEL_DIR (base, large: the backbone; default t5-base, t5-large; its runs lie beside those of others, in
# folders called SIZE--NAME), PLAN_CONTINUES (1: earlier commands of the same plan make the backbone, its data and what
# else comes before), and those of scripts/processes.sh, which say on what GPUs and machines. Several machines run the
# same launcher and share the folder.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/processes.sh
source scripts/settings.sh

SCRIPT=train_t5.py
OVERWRITE=0
EXTRA=()

say() { echo "$*"; }

# A number of positional words, then flags; --dry-run and --overwrite may stand among the words.
# $1: usage text, $2: how many words (2, or 0-3), the rest: the command line.
# Sets WORDS, DRY_RUN, OVERWRITE and EXTRA.
parse_command_line() {
    local usage="$1" count="$2"
    shift 2
    # What a stage that is stopped proposes: a launcher goes on where it was. The first of several that call each other.
    export GOES_ON_BY="${GOES_ON_BY:-$(own_command "$@")}"
    WORDS=()
    local flag own=()
    while [[ $# -gt 0 ]]; do # up to the first flag that may have a value
        case "$1" in
        --dry-run | --dry_run | --overwrite) own+=("$1") ;;
        -*) break ;;
        *) WORDS+=("$1") ;;
        esac
        shift
    done
    for flag in ${own[@]+"${own[@]}"} "$@"; do
        case "$flag" in
        --dry-run | --dry_run) DRY_RUN=1 ;;
        --overwrite) OVERWRITE=1 ;;
        -h | --help)
            echo "$usage"
            exit 0
            ;;
        *) EXTRA+=("$flag") ;;
        esac
    done
    if [[ ${#WORDS[@]} -lt ${count%-*} || ${#WORDS[@]} -gt ${count#*-} ]]; then
        echo "$usage" >&2
        fail "expected $count argument(s) before the flags, found ${#WORDS[@]}${WORDS[*]:+ (${WORDS[*]})}"
    fi
    check_places
}

# For what is not divided among machines. $1: the launcher
on_one_machine() { [[ $NODES == 1 ]] || fail "NNODES is $NODES: $1 runs on one machine"; }

# $1: what it is called, $2: the value, $3: the allowed words
check_word() {
    local word
    for word in $3; do
        [[ "$word" == "$2" ]] && return 0
    done
    fail "$1 $2: unknown; known: $3"
}

is_embedded() { [[ " $EMBEDDED_SIZES " == *" $1 "* ]]; }

# The one name that a flag has here, without its value: the scripts take hyphens or underscores, and some flags have
# several names. $1: a word of the command line
flag_name() {
    local name="${1%%=*}"
    name="${name//_/-}"
    case "$name" in
    --output-dir | --output) name=--output-path ;;
    --data-path) name=--data-dir ;;
    --teacher-model-path) name=--teacher-model ;;
    esac
    echo "$name"
}

# Whether the user gave a flag. $1: one of its names
given() {
    local wanted flag
    wanted="$(flag_name "$1")"
    for flag in ${EXTRA[@]+"${EXTRA[@]}"}; do
        [[ "$flag" == --* && "$(flag_name "$flag")" == "$wanted" ]] && return 0
    done
    return 1
}

# The value the user gave for a flag, as the scripts take it (the last one). $1: one of its names, $2: the default.
value_of() {
    local value="$2" follows="" wanted word
    wanted="$(flag_name "$1")"
    for word in ${EXTRA[@]+"${EXTRA[@]}"}; do
        if [[ -n "$follows" ]]; then
            value="$word" follows=""
        elif [[ "$word" == --* && "$(flag_name "$word")" == "$wanted" ]]; then
            if [[ "$word" == *=* ]]; then value="${word#*=}"; else follows=1; fi
        fi
    done
    echo "$value"
}

# A list as one argument: a line for each.
lines() { printf '%s\n' "$@"; }

# A model's name in the folders of checkpoints: its path from here, or its hub id, so that two models whose last parts
# are the same (runs/a/best, runs/b/best) do not share a folder. $1: the model
model_name() {
    local path
    path="$(realpath -m -- "$1")"
    path="${path#"$(pwd -P)"/}"
    path="${path#/}"
    path="${path//\//--}"
    # As long as a folder's name may be, with something appended
    [[ ${#path} -le 200 ]] || path="${path: -180}-$(cksum <<<"$path" | cut -d' ' -f1)"
    echo "$path"
}

# A task's name as the scripts have it. $1: also as its folder is spelt (SST-2)
task_name() {
    local name="${1,,}"
    name="${name//[-_]/}"
    case "$name" in
    conll2003 | conll03) name=conll ;;
    esac
    echo "$name"
}

# Says what is missing and what makes it. Fatal, except in a dry run, where an earlier command of the plan may make it.
# $1: what, $2: the command that makes it.
missing() {
    if [[ $DRY_RUN == 1 && -n "${PLAN_CONTINUES:-}" ]]; then
        return 0
    elif [[ $DRY_RUN == 1 ]]; then
        say "# missing: $1; make it with: $2"
    else
        fail "$1 is missing; make it with: $2"
    fi
}

# Sets PYTHON: the toolkit's own environment, made when there is none. A dry run makes nothing, and says once what
# makes its commands work.
use_environment() {
    if [[ $DRY_RUN == 1 ]]; then
        [[ -n "${PYTHON:-}" ]] || say "# first, once per shell: source scripts/env.sh"
        export PYTHON="${PYTHON:-python}"
    elif [[ -z "${TOOLKIT_ENVIRONMENT_READY:-}" ]]; then
        source scripts/env.sh
        export TOOLKIT_ENVIRONMENT_READY=1
    fi
}

# The interpreter as a user types it in the repository.
python_hint() { echo "${PYTHON#"$PWD"/}"; }

# Prints a command, and runs it unless this is a dry run. Its seconds go into TIMES_FILE, if there is one, under the
# name that the caller has in `what`.
run() {
    local begun
    show_command "$@"
    [[ $DRY_RUN == 0 ]] || return 0
    begun="$(date +%s%N)"
    attended "$@"
    [[ -z "${TIMES_FILE:-}" ]] || echo "$(($(date +%s%N) - begun)) ${what:-$*}" >>"$TIMES_FILE"
}

# Makes what a stage reads. Of several machines, which would make it at the same time, each asks for it instead.
# $1: what it is, $2: a file of it, the rest: the command.
prepare() {
    local what="$1" made="$2"
    shift 2
    if [[ $NODES == 1 ]]; then
        run "$@"
    elif [[ ! -f "$made" ]]; then
        missing "$made (which one machine makes for all)" "$(python_hint) ${*:2}"
    fi
}

# What tells two command lines apart: the words of each that the other lacks.
differing() {
    local there here
    there="$(comm -23 <(tr ' ' '\n' <<<"$1" | sort) <(tr ' ' '\n' <<<"$2" | sort) | paste -sd ' ')"
    here="$(comm -13 <(tr ' ' '\n' <<<"$1" | sort) <(tr ' ' '\n' <<<"$2" | sort) | paste -sd ' ')"
    echo "${there:-nothing}, not ${here:-nothing}"
}

# Whether the run in $1 is complete, was started by the same command ($2), and none of its inputs ($3: a line for each)
# is newer. Prints why not. RESULT: the file that a complete run has (result.json).
is_current() {
    local output="$1" command="$2" inputs="$3" input result
    result="$output/${RESULT:-result.json}"
    [[ -f "$result" ]] || { echo "not run to its end"; return 1; }
    if [[ -f "$output/command.txt" && "$(cat "$output/command.txt")" != "$command" ]]; then
        echo "made with other settings ($(differing "$(cat "$output/command.txt")" "$command"))"
        return 1
    fi
    while IFS= read -r input; do
        if [[ -n "$input" && "$input" -nt "$result" ]]; then
            echo "older than $input"
            return 1
        fi
    done <<<"$inputs"
}

# Trains one stage, unless its result is there. An interrupted run goes on where it was.
#   $1: what the stage is called, $2: output folder, $3: yes if an outdated result may be replaced without asking,
#   $4: files it is made from (a line for each), the rest: flags of SCRIPT
# RESULT: the file that a complete run has (result.json).
train_stage() {
    local what="$1" output="$2" replace="$3" inputs="$4" batch why command again=() mode=()
    shift 4
    choose_launch
    batch=$(((TOTAL_BATCH + NUM_PROCESSES - 1) / NUM_PROCESSES)) # per process
    [[ "$SCRIPT" == train_t5.py ]] && mode=(--mode train)
    local arguments=(${mode[@]+"${mode[@]}"} --batch-size "$batch" "$@" --output-path "$output")
    arguments+=(${EXTRA[@]+"${EXTRA[@]}"})
    output="$(value_of --output-path "$output")"
    command="${arguments[*]}"
    if [[ $DRY_RUN == 0 && -d "$output" && -n "$(ls -A "$output")" ]]; then
        if [[ $OVERWRITE == 1 ]]; then
            again=(--overwrite)
        elif why="$(is_current "$output" "$command" "$inputs")"; then
            say "$what: skipped, $output is complete (--overwrite runs it again)"
            return 0
        elif [[ ! -f "$output/${RESULT:-result.json}" ]]; then
            say "$what: $output was interrupted"
            # a run's own checkpoints, or the parts of a schedule
            again=(--overwrite)
            compgen -G "$output/checkpoints/step-*" >/dev/null && again=(--resume)
            compgen -G "$output/*/arguments.json" >/dev/null && again=(--resume)
        elif [[ "$replace" == yes ]]; then
            say "$what: $output is $why; running it again"
            again=(--overwrite)
        else
            fail "$output holds a finished run that is $why; add --overwrite to replace it, or --output-path DIR"
        fi
    elif [[ $OVERWRITE == 1 ]]; then
        again=(--overwrite)
    fi
    given --resume && again=()
    say "$what: $output"
    run "${LAUNCH[@]}" "$SCRIPT" "${arguments[@]}" ${again[@]+"${again[@]}"}
    [[ $DRY_RUN == 1 || "${NODE_RANK:-0}" != 0 ]] || echo "$command" >"$output/command.txt"
}

# ---- where things are -----------------------------------------------------------------------------------------------

# $1: size. What --model-config gets.
backbone_of() {
    if is_embedded "$1"; then
        echo "checkpoints/backbone/$1/pretrain/best"
    else
        echo "${MODEL_DIR:-t5-$1}"
    fi
}

# $1: size. Its name in the folders of checkpoints, which says so if the backbone is one of the user's.
size_name() {
    if is_embedded "$1" || [[ -z "${MODEL_DIR:-}" ]]; then echo "$1"; else echo "$1--$(model_name "$MODEL_DIR")"; fi
}

# $1: size
corpus_of() { if is_embedded "$1"; then echo "data/$1/corpus"; else echo data/wikicorpus_128; fi; }

# $1: size, $2: dataset
task_data_of() {
    if is_embedded "$1"; then
        if [[ "$2" == squad ]]; then echo "data/$1/squad"; else echo "data/$1/glue"; fi
    else
        if [[ "$2" == squad ]]; then echo data/SQuAD; else echo "data/glue/$2"; fi
    fi
}

# ---- what a stage needs ---------------------------------------------------------------------------------------------

# $1: size (embedded). Data, tokenizer and pre-trained backbone, made on the spot.
need_embedded() {
    [[ -n "${PLAN_CONTINUES:-}" ]] && return 0
    given --model-config && given --data-path && return 0
    prepare "data, tokenizer and untrained T5" "data/$1/manifest.json" "$PYTHON" -m utils.embedded --size "$1"
    given --model-config && return 0
    stage_settings backbone "$1" ""
    local kept=(${EXTRA[@]+"${EXTRA[@]}"}) overwrite="$OVERWRITE"
    EXTRA=() OVERWRITE=0 # the user's flags are for the stage that was asked for
    train_stage "backbone pre-training" "checkpoints/backbone/$1/pretrain" yes \
        "$(lines "data/$1/manifest.json" "checkpoints/backbone/$1/init/manifest.json")" \
        --dataset wiki --distil no --model-config "checkpoints/backbone/$1/init" --data-path "data/$1/corpus" \
        "${SETTINGS[@]}"
    EXTRA=(${kept[@]+"${kept[@]}"}) OVERWRITE="$overwrite"
}

# $1: size. The corpus of the plugin's pre-training.
need_corpus() {
    given --data-path && return 0
    [[ -d "$(corpus_of "$1")" ]] ||
        missing "$(corpus_of "$1")/ (the pre-training corpus)" "$(python_hint) -m utils.download corpus"
}

# $1: size, $2: dataset
need_task_data() {
    given --data-path && return 0
    is_embedded "$1" && return 0 # need_embedded makes it
    [[ -e "$(task_data_of "$1" "$2")" ]] ||
        missing "$(task_data_of "$1" "$2") (the data of $2)" "$(python_hint) utils/save_data.py --only $2"
}
