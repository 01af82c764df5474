#!/usr/bin/env bash
# Evaluates the distilled student of every finished task, and writes predictions; of all tasks, the GLUE submission.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_command_line "usage: bash scripts/bert/predict.sh MODEL [--dry-run] [flags of task_distill.py]
  MODEL   tiny, or the hub id or directory of the BERT that task_distill.sh was given
  Reads checkpoints/bert/NAME/TASK/prediction of every task that is finished; writes
  checkpoints/bert/NAME/TASK/evaluation/evaluation.json, and outputs/submission/NAME: a file per test set, and
  submission.zip (checked) once all tasks are there." 1 "$@"
model="${WORDS[0]}"
[[ $OVERWRITE == 0 ]] || fail "--overwrite has no meaning here: evaluation.json and predictions are always written anew"
on_one_machine predict.sh
use_environment

length=() found=0
[[ "$model" == tiny ]] && length=(--max_seq_length 64) # as it was trained
for task in $BERT_TASKS; do
    folder="$(bert_folder "$model")/$task"
    [[ -f "$folder/prediction/result.json" ]] || continue
    found=1
    run "$PYTHON" task_distill.py --do_eval --do_predict --task_name "$task" \
        --data_dir "$(bert_glue "$model" "$task")" --student_model "$folder/prediction" \
        --output_dir "$folder/evaluation" \
        --predictions_dir "outputs/submission/$(model_name "$model")" ${length[@]+"${length[@]}"} \
        ${EXTRA[@]+"${EXTRA[@]}"}
done
[[ $found == 1 ]] ||
    missing "$(bert_folder "$model")/*/prediction (a finished distillation on any task)" \
        "$(quoted bash scripts/bert/task_distill.sh "$model" mrpc)"
