#!/usr/bin/env bash
# Pre-trains the compression plugins on text, the backbone frozen.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_command_line "usage: bash scripts/wiki.sh SIZE [--dry-run] [--overwrite] [flags of train_t5.py]
  SIZE   tiny, mini (embedded: everything is made on the spot), base, large (corpus in data/wikicorpus_128/)
  Reads the backbone and the corpus; writes checkpoints/wiki/SIZE. Next: bash scripts/glue/glue.sh SIZE DATASET" 1 "$@"
size="${WORDS[0]}"
check_word SIZE "$size" "$EMBEDDED_SIZES $PUBLISHED_SIZES"
use_environment

replace=no
if is_embedded "$size"; then
    need_embedded "$size"
    replace=yes
else
    need_corpus "$size"
fi

stage_settings plugin "$size" ""
train_stage "plugin pre-training" "checkpoints/wiki/$(size_name "$size")" "$replace" \
    "$(backbone_of "$size")/config.json" \
    --dataset wiki --distil hidden --model-config "$(backbone_of "$size")" --data-path "$(corpus_of "$size")" \
    --mux-num "${RATIOS[@]}" "${SETTINGS[@]}"
