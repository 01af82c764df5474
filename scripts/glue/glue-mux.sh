#!/usr/bin/env bash
# Adapts the pre-trained plugins to a task, the fine-tuned backbone frozen.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

parse_command_line "usage: bash scripts/glue/glue-mux.sh SIZE DATASET [--dry-run] [--overwrite] [flags of train_t5.py]
  SIZE      tiny, mini, base, large
  DATASET   $DATASETS
  Reads checkpoints/glue/SIZE/DATASET (made by glue.sh) and the plugins of checkpoints/wiki/SIZE (made by wiki.sh)
  or else the published ones in checkpoints/plugins/; writes checkpoints/glue-mux/SIZE/DATASET." 2 "$@"
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

name="$(size_name "$size")"
finetuned="checkpoints/glue/$name/$dataset"
given --checkpoint || [[ -f "$finetuned/result.json" ]] ||
    missing "$finetuned/result.json (the finished fine-tuning)" "bash scripts/glue/glue.sh $size $dataset"

plugin="checkpoints/wiki/$name/best"
published="checkpoints/plugins/plugin-t5_$size-mux_4.pkl"
if [[ ! -f "checkpoints/wiki/$name/result.json" && -f "$published" ]]; then
    plugin="$published"
elif ! given --plugin-path && [[ ! -f "checkpoints/wiki/$name/result.json" ]]; then
    how="bash scripts/wiki.sh $size"
    is_embedded "$size" ||
        how+=" (trains them), or: $(python_hint) -m utils.download plugin --size $size (fetches the published ones)"
    missing "checkpoints/wiki/$name/result.json (the finished plugin pre-training)" "$how"
fi

stage_settings adapt "$size" "$dataset"
train_stage "plugin adaptation to $dataset" "checkpoints/glue-mux/$name/$dataset" "$replace" \
    "$(lines "$finetuned/result.json" "checkpoints/wiki/$name/result.json")" \
    --dataset "$dataset" --distil hidden --model-config "$(backbone_of "$size")" --checkpoint "$finetuned/best" \
    --plugin-path "$plugin" --data-path "$(task_data_of "$size" "$dataset")" --mux-num "${RATIOS[@]}" "${SETTINGS[@]}"
