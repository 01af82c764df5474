#!/usr/bin/env bash
# Fine-tunes a teacher on a task, then distils it into the decomposed student: its inside first, its predictions then.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_command_line "usage: bash scripts/bert/task_distill.sh MODEL TASK [--dry-run] [--overwrite] [flags of task_distill.py]
  MODEL   tiny (embedded: everything is made on the spot), or the hub id or directory of a BERT
  TASK    $BERT_TASKS (tiny: $EMBEDDED_TASKS)
  Reads checkpoints/bert/NAME/general (made by general_distill.sh) and the task's data; the flags are for the two stages
  of distillation. Writes checkpoints/bert/NAME/TASK/{teacher,intermediate,prediction}.
  Next: bash scripts/bert/predict.sh MODEL" 2 "$@"
model="${WORDS[0]}" task="${WORDS[1]}"
tasks="$BERT_TASKS" replace=no
[[ "$model" == tiny ]] && tasks="$EMBEDDED_TASKS" replace=yes
check_word TASK "$task" "$tasks"
for flag in --output-path --output-dir --output --student-model --teacher-model --stage --mode; do
    given "$flag" && fail "$flag: set by each stage (STUDENT=… names another student), folders are in $(bert_folder "$model")/$task"
done
use_environment
SCRIPT=task_distill.py

need_bert "$model"
general="${STUDENT:-$(bert_folder "$model")/general}"
[[ -n "${STUDENT:-}" || -f "$general/result.json" ]] ||
    missing "$general/result.json (the finished general distillation)" "bash scripts/bert/general_distill.sh $model"
glue="$(bert_glue "$model")"
if [[ "$model" != tiny ]] && ! given --data-dir; then
    [[ -d "$glue/$task" || -d "$glue" ]] ||
        missing "$glue/$task (the data of $task)" "$(python_hint) utils/save_data.py --only $task"
fi

folder="$(bert_folder "$model")/$task"
common=(--task_name "$task" --data_dir "$(value_of --data-dir "$glue")")

distilling=(${EXTRA[@]+"${EXTRA[@]}"})
EXTRA=() # the user's flags are for the distillation
bert_settings teacher "$model"
train_stage "fine-tuning of the teacher on $task" "$folder/teacher" "$replace" "$(bert_of "$model")/config.json" \
    --mode finetune --teacher_model "$(bert_of "$model")" "${common[@]}" "${SETTINGS[@]}"
EXTRA=(${distilling[@]+"${distilling[@]}"})

bert_settings intermediate "$model"
train_stage "distillation on $task, intermediate layers" "$folder/intermediate" "$replace" \
    "$folder/teacher/result.json $general/result.json" --stage intermediate --teacher_model "$folder/teacher" \
    --student_model "$general" "${common[@]}" "${SETTINGS[@]}"

bert_settings prediction "$model"
train_stage "distillation on $task, predictions" "$folder/prediction" "$replace" "$folder/intermediate/result.json" \
    --stage prediction --teacher_model "$folder/teacher" "${common[@]}" "${SETTINGS[@]}" \
    --student_model "$folder/intermediate"
