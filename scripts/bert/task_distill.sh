#!/usr/bin/env bash
# Fine-tunes a teacher on a task, then distils it into the decomposed student: its inside first, its predictions then.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_command_line "usage: bash scripts/bert/task_distill.sh MODEL TASK [--dry-run] [--overwrite] [flags]
  MODEL   tiny (embedded: everything is made on the spot), or the hub id or directory of a BERT
  TASK    $BERT_TASKS (tiny: $EMBEDDED_TASKS)
  flags   of task_distill.py, for the two stages of distillation
  Reads checkpoints/bert/NAME/general (made by general_distill.sh) and the task's data. STUDENT=DIR names another
  student; STUDENT=teacher takes the fine-tuned teacher itself, decomposed.
  Writes checkpoints/bert/NAME/TASK/{teacher,intermediate,prediction}, the first and the last with evaluation.json.
  Next: bash scripts/bert/predict.sh MODEL" 2 "$@"
model="${WORDS[0]}" task="$(task_name "${WORDS[1]}")"
tasks="$BERT_TASKS" replace=no
[[ "$model" == tiny ]] && tasks="$EMBEDDED_TASKS" replace=yes
check_word TASK "$task" "$tasks"
folder="$(bert_folder "$model")/$task"
for flag in --output-path --student-model --teacher-model --stage --mode; do
    given "$flag" && fail "$flag: set by each stage (STUDENT=… names another student), folders are in $folder"
done
use_environment
SCRIPT=task_distill.py

need_bert "$model"
case "${STUDENT:-}" in
"")
    general="$(bert_folder "$model")/general"
    student=(--student_model "$general") made_from="$general/result.json"
    [[ -f "$made_from" ]] ||
        missing "$made_from (the finished general distillation)" \
            "$(quoted bash scripts/bert/general_distill.sh "$model")"
    ;;
teacher)
    bert_ranks "$model"
    student=(--student_model "$folder/teacher" "${DECOMPOSITION[@]}") made_from=""
    ;;
*) student=(--student_model "$STUDENT") made_from="$STUDENT/result.json" ;;
esac
need_glue "$model" "$task"

common=(--task_name "$task" --data_dir "$(value_of --data-dir "$(bert_glue "$model" "$task")")")

distilling=(${EXTRA[@]+"${EXTRA[@]}"})
EXTRA=() # the user's flags are for the distillation
train_teacher "$model" "$task" "$replace" "${common[@]}"
EXTRA=(${distilling[@]+"${distilling[@]}"})

bert_settings intermediate "$model"
train_stage "distillation on $task, intermediate layers" "$folder/intermediate" "$replace" \
    "$(lines "$folder/teacher/result.json" "$made_from")" --stage intermediate --teacher_model "$folder/teacher" \
    "${student[@]}" "${common[@]}" "${SETTINGS[@]}"

bert_settings prediction "$model"
RESULT=evaluation.json train_stage "distillation on $task, predictions" "$folder/prediction" "$replace" \
    "$folder/intermediate/result.json" --stage prediction --teacher_model "$folder/teacher" \
    "${common[@]}" "${SETTINGS[@]}" --student_model "$folder/intermediate" --do_eval
