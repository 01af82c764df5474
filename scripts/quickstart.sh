#!/usr/bin/env bash
# The whole pipeline on the embedded default: a few minutes on two CPU cores, nothing to download but the packages.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_command_line "usage: bash scripts/quickstart.sh [--dry-run] [--overwrite]
  Makes a tiny T5 with its corpus and tasks, pre-trains compression plugins for ratios 2, 4 and 8, fine-tunes the T5
  on the sentiment task, adapts the plugins to it, evaluates, and writes outputs/quickstart/report.md.
  What is there already is used again." 0 "$@"
[[ ${#EXTRA[@]} -eq 0 ]] || fail "unknown flag ${EXTRA[0]}; known: --dry-run, --overwrite"
use_environment
export PYTHON

size=tiny
dataset="${QUICKSTART_DATASET:-sst2}"
output=outputs/quickstart
flags=()
[[ $DRY_RUN == 1 ]] && flags+=(--dry-run)
[[ $OVERWRITE == 1 ]] && flags+=(--overwrite)

bash scripts/wiki.sh "$size" ${flags[@]+"${flags[@]}"}
bash scripts/glue/glue.sh "$size" "$dataset" ${flags[@]+"${flags[@]}"}
bash scripts/glue/glue-mux.sh "$size" "$dataset" ${flags[@]+"${flags[@]}"}

stage_settings adapt "$size" "$dataset"
finetuned="checkpoints/glue/$size/$dataset"
adapted="checkpoints/glue-mux/$size/$dataset"

# $1: what the plugins are called, $2: where they are, or none for plugins that were never trained
evaluate() {
    local folder="$output/$dataset-$1" why
    local inputs=("$finetuned/result.json" "$adapted/result.json" "checkpoints/wiki/$size/result.json")
    local command=("$PYTHON" train_t5.py --mode valid --dataset "$dataset" --distil no --mux-num "${RATIOS[@]}"
        --model-config "$(backbone_of "$size")" --checkpoint "$finetuned/best" --plugin-path "$2"
        --data-path "$(task_data_of "$size" "$dataset")" --max-input-length "$(embedded_length "$dataset")"
        --random-seed 1 --output-path "$folder")
    # Without a file that says so: the backbone's own units, not those of the published plugins.
    [[ "$2" == none ]] && command+=(--residual-scale "$EMBEDDED_RESIDUAL_SCALE")
    if [[ $DRY_RUN == 0 && $OVERWRITE == 0 ]] && why="$(is_current "$folder" "${command[*]}" "${inputs[@]}")"; then
        say "evaluation of the $1 plugins: skipped, $folder is complete"
        return 0
    fi
    say "evaluation of the $1 plugins: $folder"
    run "${command[@]}" --overwrite
    [[ $DRY_RUN == 1 ]] || echo "${command[*]}" >"$folder/command.txt"
}
evaluate adapted "$adapted/best"
evaluate pretrained "checkpoints/wiki/$size/best"
evaluate untrained none

run "$PYTHON" -m utils.quickstart_report --dataset "$dataset" --output "$output" \
    --runs "adapted=$output/$dataset-adapted" "pretrained=$output/$dataset-pretrained" \
    "untrained=$output/$dataset-untrained"
