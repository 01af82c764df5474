# Shared by the launchers of this folder: sourced, never run.
#
# MODEL is tiny (embedded: made on the spot) or any BERT, by its hub id or directory. What is made of it lies in
# checkpoints/bert/NAME, NAME being its path or hub id with -- for / (runs--a--best), so that two never share one.
#
# Environment: RANKS_OF_STUDENT ("rank_layer rank_condim rank_dim"), PREGENERATED (folder of that data), STUDENT (what
# task_distill.sh begins with, instead of the general distillation), and those of scripts/common.sh.

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

BERT_TASKS="cola mnli mrpc qnli qqp rte sst2 stsb wnli"
EMBEDDED_TASKS="mnli mrpc qnli qqp rte sst2"

# $1: model. Where what is made of it goes.
bert_folder() { echo "checkpoints/bert/$(model_name "$1")"; }

# $1: model. What is given as --teacher_model for general distillation and fine-tuning.
bert_of() { if [[ "$1" == tiny ]]; then echo checkpoints/bert/tiny/init; else echo "${1%/}"; fi; }

# $1: model, $2: task (may be empty). The folder of the tasks: ours, or datasets/, as MiniDisc's release had it.
bert_glue() {
    if [[ "$1" == tiny ]]; then
        echo data/tiny/glue
    elif [[ -n "$2" && ! -d "data/glue/$2" && -d "datasets/$2" ]]; then
        echo datasets
    else
        echo data/glue
    fi
}

# $1: model, $2: task. Says how to get the task's data, if they are missing.
need_glue() {
    local glue how="$(python_hint) utils/save_data.py --only $2"
    glue="$(bert_glue "$1" "$2")"
    if [[ "$1" == tiny || -d "$glue/$2" || -d "$glue" ]] || given --data-dir; then return 0; fi
    case "$2" in
    conll | wnut17) # neither has a source that the toolkit may fetch
        [[ $DRY_RUN == 1 ]] || fail "$glue/$2 (the data of $2) is missing; put its train.txt, dev.txt and" \
            "test.txt there, a word and its tag per line, or name another folder: --data_dir DIR"
        say "# missing: $glue/$2 (the data of $2); put its train.txt, dev.txt and test.txt there"
        ;;
    *) missing "$glue/$2 (the data of $2)" "$how" ;;
    esac
}

# $1: model
bert_text() {
    if [[ "$1" == tiny ]]; then echo data/tiny/pregenerated; else echo "${PREGENERATED:-data/pregenerated}"; fi
}

# $1: model. Makes data and BERT of the embedded default.
need_bert() {
    [[ "$1" != tiny || -n "${PLAN_CONTINUES:-}" ]] && return 0
    prepare "tokenizer and untrained BERT" checkpoints/bert/tiny/init/manifest.json \
        "$PYTHON" -m utils.embedded.bert --size tiny
}

# $1: model. The pre-generated text.
need_text() {
    given --pregenerated-data && return 0
    if [[ "$1" == tiny ]]; then
        local again=() made
        for made in data/tiny/manifest.json checkpoints/bert/tiny/init/manifest.json; do
            [[ "$made" -nt "$(bert_text tiny)/epoch_0_metrics.json" ]] && again=(--overwrite)
        done
        # A corpus made for T5: long lines of many sentences, most of which would not pass for prose.
        prepare "pre-generated text" "$(bert_text tiny)/epoch_0_metrics.json" \
            "$PYTHON" -m utils.pregenerate_training_data \
            --train_corpus data/tiny/corpus/train.txt --bert_model checkpoints/bert/tiny/init \
            --output_dir "$(bert_text tiny)" --epochs_to_generate 2 --max_seq_len 64 --line_filter off \
            --split_sentences ${again[@]+"${again[@]}"}
    else
        local text how
        text="$(bert_text "$1")"
        how="$(python_hint) -m utils.pregenerate_training_data --train_corpus data/wikicorpus_128"
        how+=" --bert_model $(quoted "$1") --output_dir $(quoted "$text") --line_filter off --split_sentences"
        [[ -d data/wikicorpus_128 ]] || how="$(python_hint) -m utils.download corpus && $how"
        [[ -d "$text" ]] || missing "$text/ (pre-generated text)" "$how"
    fi
}

# $1: stage (general, teacher, intermediate, prediction), $2: model. Sets TOTAL_BATCH and SETTINGS.
bert_settings() {
    TOTAL_BATCH=32
    SETTINGS=(--random-seed 42)
    if [[ "$2" != tiny ]]; then # the defaults of task_distill.py by task and stage, and those of general_distill.py
        [[ "$1" == general ]] && TOTAL_BATCH=256
        return 0
    fi
    SETTINGS+=(--inspect-step 50 --max_seq_length 64)
    case "$1" in
    general) SETTINGS+=(--lr 1e-3 --max_steps 300 --eval_step 100 --distill_layers all) ;;
    teacher) SETTINGS+=(--lr 1e-3 --max_steps 400 --eval_step 200) ;;
    intermediate) SETTINGS+=(--lr 1e-3 --max_steps 50 --eval_step 50 --distill_layers all) ;;
    prediction) SETTINGS+=(--lr 5e-4 --max_steps 50 --eval_step 50) ;;
    esac
    return 0
}

# $1: model, $2: key. A number in the config.json of a model or of a run; nothing where that is not on this machine.
config_number() {
    local file
    for file in "$1/config.json" "$1/best/config.json"; do
        [[ ! -f "$file" ]] || { sed -nE 's/.*"'"$2"'": *([0-9]+).*/\1/p' "$file" | head -n 1 && return 0; }
    done
}

# $1: model. Sets DECOMPOSITION: half of the matrices and of the width, about 1/7 of the parameters of the layers.
bert_ranks() {
    local ranks default="72 384 384" layers width inner
    layers="$(config_number "$(bert_of "$1")" num_hidden_layers)"
    width="$(config_number "$(bert_of "$1")" hidden_size)" inner="$(config_number "$(bert_of "$1")" intermediate_size)"
    if [[ "$1" == tiny ]]; then
        default="12 32 32" # about 1/29: the embedded tasks need little of it
    elif [[ -n "$layers" && -n "$width" && -n "$inner" ]]; then
        default="$((layers * (4 + 2 * (inner / width)) / 2)) $((width / 2)) $((width / 2))"
    fi
    read -r -a ranks <<<"${RANKS_OF_STUDENT:-$default}"
    [[ ${#ranks[@]} -eq 3 ]] ||
        fail "RANKS_OF_STUDENT is three numbers (rank_layer rank_condim rank_dim), found: ${ranks[*]}"
    DECOMPOSITION=(--use_swap --rank_layer "${ranks[0]}" --rank_condim "${ranks[1]}" --rank_dim "${ranks[2]}")
}

# $1: model, $2: task, $3: yes if an outdated teacher may be replaced, the rest: flags that say which data.
# Fine-tunes and evaluates checkpoints/bert/NAME/TASK/teacher; every method has the same one.
train_teacher() {
    local model="$1" task="$2" replace="$3" RESULT=evaluation.json SCRIPT=task_distill.py
    shift 3
    bert_settings teacher "$model"
    train_stage "fine-tuning of the teacher on $task" "$(bert_folder "$model")/$task/teacher" "$replace" \
        "$(bert_of "$model")/config.json" --mode finetune --teacher_model "$(bert_of "$model")" "$@" "${SETTINGS[@]}" \
        --do_eval
}
