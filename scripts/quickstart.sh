#!/usr/bin/env bash
# The whole pipeline on the embedded default: a few minutes on two CPU cores, nothing to download but the packages.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/bert/common.sh"

parse_command_line "usage: bash scripts/quickstart.sh [--dry-run] [--overwrite]
  Makes a tiny T5 and a tiny BERT with their corpus and tasks. Variator: pre-trains compression plugins for ratios
  2 and 4, fine-tunes the T5 on the sentiment task, adapts the plugins to it. Tucker: fine-tunes the BERT,
  decomposes its encoder to about 1/29, distils it. MiniDisc: prunes the BERT by 90 %, distils it at once, over each
  of three assistants in turns, and over the one that a single trial chooses. Evaluates all and writes
  outputs/quickstart/report.md.
  What is there already is used again." 0 "$@"
[[ ${#EXTRA[@]} -eq 0 ]] || fail "unknown flag ${EXTRA[0]}; known: --dry-run, --overwrite"
on_one_machine quickstart.sh
use_environment
export PYTHON
begun="$(date +%s%N)"
warm_up

size=tiny
dataset="${QUICKSTART_DATASET:-sst2}"
output=outputs/quickstart
flags=()
[[ $DRY_RUN == 1 ]] && flags+=(--dry-run)
[[ $OVERWRITE == 1 ]] && flags+=(--overwrite)
if [[ $DRY_RUN == 0 ]]; then
    mkdir -p "$output"
    export TIMES_FILE="$output/times.txt"
    : >"$TIMES_FILE"
fi
GROUPS_OF_REPORT=() # a method's rows, for utils.quickstart_report: --group METHOD NAME=DIR …

# $1: launcher, the rest: its words.
launch() { attended bash "scripts/$1" "${@:2}" ${flags[@]+"${flags[@]}"}; }

# Evaluates, unless that is done. $1: of what, $2: folder, $3: the file that is made in it, $4: what it is made from
# (a line for each), $5: the flag that names the folder, the rest: the command.
evaluate() {
    local what="$1" folder="$2" RESULT="$3" inputs="$4" command=("${@:6}" "$5" "$2") why
    if [[ $DRY_RUN == 0 && $OVERWRITE == 0 ]] && why="$(is_current "$folder" "${command[*]}" "$inputs")"; then
        say "evaluation of $what: skipped, $folder is complete"
        return 0
    fi
    what="evaluation of $what"
    say "$what: $folder"
    run "${command[@]}" --overwrite
    [[ $DRY_RUN == 1 ]] || echo "${command[*]}" >"$folder/command.txt"
}

# ---- Variator -------------------------------------------------------------------------------------------------------

# $1: what the plugins are called, $2: where they are, or none for plugins that were never trained
evaluate_plugins() {
    local folder="$output/$dataset-$1" finetuned="checkpoints/glue/$size/$dataset" units=()
    # Without a file that says so: the backbone's own units, not those of the published plugins.
    [[ "$2" == none ]] && units=(--residual-scale "$EMBEDDED_RESIDUAL_SCALE")
    evaluate "the $1 plugins" "$folder" result.json \
        "$(lines {"$finetuned",checkpoints/{"glue-mux/$size/$dataset","wiki/$size"}}/result.json)" \
        --output-path "$PYTHON" train_t5.py --mode valid --dataset "$dataset" --distil no --mux-num "${RATIOS[@]}" \
        --model-config "$(backbone_of "$size")" --checkpoint "$finetuned/best" --plugin-path "$2" \
        --data-path "$(task_data_of "$size" "$dataset")" --max-input-length "$(embedded_length "$dataset")" \
        --random-seed 1 ${units[@]+"${units[@]}"}
}

launch wiki.sh "$size"
export PLAN_CONTINUES=1 # the launchers below need not make the backbone again, nor miss what those above make
launch glue/glue.sh "$size" "$dataset"
launch glue/glue-mux.sh "$size" "$dataset"
unset PLAN_CONTINUES

stage_settings adapt "$size" "$dataset"
evaluate_plugins adapted "checkpoints/glue-mux/$size/$dataset/best"
evaluate_plugins pretrained "checkpoints/wiki/$size/best"
evaluate_plugins untrained none
GROUPS_OF_REPORT+=(--group Variator "adapted=$output/$dataset-adapted" "pretrained=$output/$dataset-pretrained"
    "untrained=$output/$dataset-untrained")

# ---- Tucker ---------------------------------------------------------------------------------------------------------

if [[ " $EMBEDDED_TASKS " == *" $dataset "* ]]; then
    STUDENT=teacher launch bert/task_distill.sh "$size" "$dataset"
    bert="$(bert_folder "$size")/$dataset"
    bert_ranks "$size"
    evaluate "the decomposed BERT that is not distilled" "$output/$dataset-decomposed" evaluation.json \
        "$bert/teacher/result.json" --output_dir "$PYTHON" task_distill.py --do_eval --task_name "$dataset" \
        --data_dir "$(bert_glue "$size" "$dataset")" --student_model "$bert/teacher" "${DECOMPOSITION[@]}" \
        --max_seq_length 64
    GROUPS_OF_REPORT+=(--group Tucker "teacher=$bert/teacher" "distilled=$bert/prediction"
        "decomposed=$output/$dataset-decomposed")
fi

# ---- MiniDisc -------------------------------------------------------------------------------------------------------

if [[ " $EMBEDDED_TASKS " == *" $dataset "* ]]; then
    export PLAN_CONTINUES=1
    launch minidisc/finetuning.sh "$size" "$dataset"
    launch minidisc/sparsification.sh "$size" "$dataset"
    launch minidisc/distillation.sh "$size" "$dataset" --do_eval
    # The assistants among which minidisc.sh chooses, one after the other.
    launch minidisc/maxidisc.sh "$size" "$dataset" --do_eval --layer_or_sparsity_path "60,90S;70,90S;80,90S"
    launch minidisc/minidisc.sh "$size" "$dataset" --do_eval
    unset PLAN_CONTINUES
    schedules="checkpoints/minidisc/$size/$dataset"
    GROUPS_OF_REPORT+=(--group MiniDisc "teacher=$bert/teacher" "conventional=$schedules/distillation-90S"
        "maxidisc=$schedules/maxidisc-60-90S-70-90S-80-90S" "minidisc=$schedules/minidisc-90S")
fi

[[ $DRY_RUN == 1 ]] || echo "$(($(date +%s%N) - begun)) total" >>"$TIMES_FILE"
what="the report"
run "$PYTHON" -m utils.quickstart_report --dataset "$dataset" --output "$output" "${GROUPS_OF_REPORT[@]}" \
    --times "$output/times.txt"
