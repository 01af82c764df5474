#!/usr/bin/env bash
# Fine-tunes the backbone on a task, without plugins.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

parse_command_line "usage: bash scripts/glue/glue.sh SIZE DATASET [--dry-run] [--overwrite] [flags of train_t5.py]
  SIZE      tiny, mini (embedded: everything is made on the spot), base, large (data in data/glue/, data/SQuAD/)
  DATASET   $DATASETS
  Writes checkpoints/glue/SIZE/DATASET. Next: bash scripts/glue/glue-mux.sh SIZE DATASET" 2 "$@"
size="${WORDS[0]}" dataset="${WORDS[1]}"
check_word SIZE "$size" "$EMBEDDED_SIZES $PUBLISHED_SIZES"
check_word DATASET "$dataset" "$DATASETS"
use_environment

replace=no
if is_embedded "$size"; then
    need_embedded "$size"
    replace=yes
fi
need_task_data "$size" "$dataset"

stage_settings finetune "$size" "$dataset"
train_stage "fine-tuning on $dataset" "checkpoints/glue/$(size_name "$size")/$dataset" "$replace" \
    "$(backbone_of "$size")/config.json" --dataset "$dataset" --distil no --model-config "$(backbone_of "$size")" \
    --data-path "$(task_data_of "$size" "$dataset")" "${SETTINGS[@]}"
