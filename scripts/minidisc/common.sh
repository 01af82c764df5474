# Shared by the launchers of this folder: sourced, never run.
#
# MODEL is tiny (embedded: made on the spot) or any BERT, by its hub id or directory; for EncT5, a T5 with
# --model_type sparseenct5_cls. The teacher lies in checkpoints/bert/NAME/TASK/teacher (where scripts/bert keeps it
# too), the rest in checkpoints/minidisc/NAME/TASK, with the NAME that they have there.

source "$(dirname "${BASH_SOURCE[0]}")/../bert/common.sh"
SCRIPT=task_distill.py

MINIDISC_TASKS="$BERT_TASKS conll wnut17"
MINIDISC_EMBEDDED_TASKS="$EMBEDDED_TASKS conll"

# $1: usage text, the rest: the command line. Sets model, task, folder, teacher, common, replace.
begin() {
    local usage="$1"
    shift
    parse_command_line "$usage" 2 "$@"
    model="${WORDS[0]}" task="$(task_name "${WORDS[1]}")" replace=no
    local tasks="$MINIDISC_TASKS" flag
    [[ "$model" == tiny ]] && tasks="$MINIDISC_EMBEDDED_TASKS" replace=yes
    check_word TASK "$task" "$tasks"
    for flag in --student-model --teacher-model --mode; do
        given "$flag" && fail "$flag: set by each stage; folders are checkpoints/minidisc/$(model_name "$model")/$task"
    done
    use_environment
    need_bert "$model"
    folder="checkpoints/minidisc/$(model_name "$model")/$task"
    teacher="$(bert_folder "$model")/$task/teacher"
    need_glue "$model" "$task"
    common=(--task_name "$task" --data_dir "$(value_of --data-dir "$(bert_glue "$model" "$task")")")
}

# Says what makes the teacher, if it is missing.
need_teacher() {
    [[ -f "$teacher/result.json" ]] ||
        missing "$teacher/result.json (the fine-tuned teacher)" \
            "$(quoted bash scripts/minidisc/finetuning.sh "$model" "$task")"
}

# Says what makes the reordered teacher, if it is missing.
need_sparsified() {
    [[ -f "$folder/sparsification/result.json" ]] ||
        missing "$folder/sparsification/result.json (heads and neurons in the order of their importance)" \
            "$(quoted bash scripts/minidisc/sparsification.sh "$model" "$task")"
}

# A scale, path of scales or folder of a model as a part of a folder's name. $1: the same
scale_name() { if [[ "$1" == */* ]]; then model_name "$1"; else echo "${1//[;,]/-}"; fi; }

# Sets TOTAL_BATCH and SETTINGS of a distillation.
minidisc_settings() {
    TOTAL_BATCH=32
    SETTINGS=(--random-seed 42 --inspect-step 50)
    [[ "$model" == tiny ]] && SETTINGS+=(--max_seq_length 64 --lr 1e-3 --max_steps 80 --eval_step 80)
    return 0
}

# $1: what the stage is called, $2: folder, the rest: flags. A distillation of the reordered teacher.
schedule_stage() {
    local what="$1" output="$2"
    shift 2
    minidisc_settings
    train_stage "$what" "$output" "$replace" "$folder/sparsification/result.json" \
        --teacher_model "$folder/sparsification" "${common[@]}" "${SETTINGS[@]}" "$@"
}
