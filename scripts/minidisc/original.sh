#!/usr/bin/env bash
# The interface of MiniDisc's release. bert_scripts/run_STAGE_TASK.sh and t5_scripts/run_STAGE_TASK.sh are links to this
# file, which reads family, stage and task from the name that it is called by. Words and settings are the release's.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
for place in "$(dirname "$(realpath "$0")")" "$here/../scripts/minidisc" "$here/../minidisc"; do
    [[ ! -f "$place/original.sh" ]] || break # in a copy of the folder links have become files
done
source "$place/common.sh"

family="$(basename "$here")" name="$(basename "$0" .sh)"
stages="finetuning|sparsification|distillation|maxidisc|minidisc"
[[ "$family" == *_scripts && "$name" =~ ^run_($stages)_([a-z0-9]+)$ ]] ||
    fail "call bert_scripts/run_STAGE_TASK.sh or t5_scripts/run_STAGE_TASK.sh, such as run_minidisc_mrpc.sh"
stage="${BASH_REMATCH[1]}" task="${BASH_REMATCH[2]}"
check_word TASK "$task" "$MINIDISC_TASKS"
case "$task" in conll | wnut17) kind=ner base=bert-base-cased ;; *) kind=cls base=bert-base-uncased ;; esac
backbone=bert
[[ "$family" == t5_scripts ]] && backbone=enct5 base=t5-base

parse_command_line "usage: bash $family/$name.sh [MODEL_TYPE] [SCALE] [SUFFIX] [--dry-run] [--overwrite] [flags]
  MODEL_TYPE  ft$backbone, kdbert, pkdbert or sparse$backbone, with _$kind behind it (default: as the stage needs)
  SCALE       90S or 4L, or the folder of a model (distillation); 80,90S or 6,4L (maxidisc)
  SUFFIX      a word in the name of the output folder (default: none)
  flags       of task_distill.py; --teacher_model_path PATH is the pre-trained model (finetuning), the fine-tuned one
              (sparsification), or the sparsified one (the other stages). Default: what the stage before has written
  Reads datasets/$task or data/glue/$task; writes outputs/MODEL_TYPE_SUFFIX_SCALE_$task." 0-3 "$@"

# Which word is which: types and scales cannot be mistaken, and the release's scripts have them in different places.
type="sparse${backbone}_$kind" scale="" suffix=none
[[ "$stage" == finetuning ]] && type="ft${backbone}_$kind"
for word in ${WORDS[@]+"${WORDS[@]}"}; do
    if [[ "$word" =~ ^(ft|kd|pkd|sparse)(bert|enct5)(_cls|_ner)?$ ]]; then
        type="$word"
        [[ "$word" == *_* ]] || type="${word}_$kind" # as the folders of the stages before and behind have it
    elif [[ "$stage" =~ ^(distillation|maxidisc)$ && -z "$scale" ]] &&
        [[ "$word" =~ ^[0-9.,\;SLRKslrk]+[SLRKslrk]$ || -d "$word" || "$word" == */* ]]; then
        scale="$word"
    elif [[ "$word" =~ ^[0-9.,\;]+[A-Za-z0-9]+$ && ! "$word" =~ ^[0-9]+$ ]] ||
        [[ "$word" =~ ^[0-9]+$ && "$stage" =~ ^(distillation|maxidisc)$ && -z "$scale" ]]; then
        fail "'$word' is no scale that $stage takes: $([[ "$stage" =~ ^(distillation|maxidisc)$ ]] &&
            echo "expected one such as 90S or 4L" || echo "give the target as --target_sparsity 95")"
    elif [[ "$word" =~ (bert|bret|brt|enct5|t5)(_[a-z]+)?$ ]]; then
        fail "'$word' is no model type; known: ft$backbone, kdbert, pkdbert, sparse$backbone" \
            "(in the name of the output folder it is --model_suffix $word)"
    elif [[ "$suffix" != none ]]; then
        fail "two words for the name of the output folder: '$suffix' and '$word'"
    elif [[ -n "$word" ]]; then
        suffix="$word"
    fi
done
type="$(value_of --model-type "$type")" suffix="$(value_of --model-suffix "$suffix")"

# A scale in the name of a folder, as the release has it: 80,90S; a model's folder is one word.
original_name() { if [[ "$1" == */* ]]; then model_name "$1"; else echo "${1//;/-}"; fi; }

# What the stage is run with; $1: rows, $2: rate, $3: steps between evaluations
set_rates() { TOTAL_BATCH="$1" rate="$2" interval="$3"; }
case "$backbone $task" in
bert\ conll | bert\ wnut17) set_rates 32 2e-5 100 ;;
bert\ qqp | bert\ mnli | bert\ qnli | bert\ sst2) set_rates 32 2e-5 3000 ;;
bert\ *) set_rates 16 3e-5 10 ;;
*\ conll | *\ wnut17) set_rates 32 1e-4 100 ;;
*\ qqp | *\ mnli | *\ qnli | *\ sst2) set_rates 32 1e-4 3000 ;;
*) set_rates 32 2e-4 10 ;;
esac
common=(--model_type "$type" --max_length 128 --per_device_eval_batch_size 32 --seed 776)
training=(--learning_rate "$rate" --weight_decay 1e-2 --log_interval "$interval" --num_train_epochs 10
    --num_patience_epochs 5 --warmup_proportion 0.1 --max_grad_norm 5.0)
case "$task" in mrpc | qqp) training+=(--selection_metric acc_and_f1) ;; esac

before="" made_by=""
case "$stage" in
finetuning)
    output="outputs/${type}_${suffix}_$task" teacher="$base"
    [[ -d "models/$base" ]] && teacher="models/$base"
    mode=(--mode finetune "${training[@]}" --num_train_epochs 3)
    ;;
sparsification)
    output="outputs/${type}_${suffix}_$task" before="outputs/ft${backbone}_${kind}_none_$task" made_by=finetuning
    mode=(--mode sparsify)
    ;;
*)
    before="outputs/sparse${backbone}_${kind}_none_$task" made_by=sparsification
    case "$stage" in
    distillation)
        scale="$(value_of --layer-or-sparsity "${scale:-90S}")"
        mode=(--mode distill --layer_or_sparsity "$scale")
        ;;
    maxidisc)
        scale="$(value_of --layer-or-sparsity-path "${scale:-80,90S}")"
        mode=(--mode maxidisc --layer_or_sparsity_path "$scale")
        ;;
    minidisc)
        target="$(value_of --target-sparsity 90)"
        scale="auto,${target}S" mode=(--mode minidisc --target_sparsity "$target")
        ;;
    esac
    output="outputs/${type}_${suffix}_$(original_name "$scale")_$task"
    mode+=("${training[@]}")
    ;;
esac

use_environment
data="$(bert_glue "" "$task")"
[[ -d "datasets/$task" ]] && data=datasets
need_glue "" "$task"
data="$(value_of --data-dir "$data")"
if [[ -n "$before" ]]; then
    teacher="$before"
    given --teacher-model || [[ -f "$before/result.json" ]] ||
        missing "$before/result.json (made by the stage before)" "bash $family/run_${made_by}_$task.sh"
fi
# As the release's scripts do for whole sentences; without rows to predict it would end in an error.
if [[ "$kind" == cls && "$stage" =~ disc|dist ]] && compgen -G "$data/$task/test*" >/dev/null; then
    mode+=(--do_infer)
fi

kept=() skip=""
for word in ${EXTRA[@]+"${EXTRA[@]}"}; do # the name of the folder says it
    if [[ -n "$skip" ]]; then
        skip=""
    elif [[ "$word" == --* && "$(flag_name "$word")" == --model-suffix ]]; then
        [[ "$word" == *=* ]] || skip=1
    else
        kept+=("$word")
    fi
done
EXTRA=(${kept[@]+"${kept[@]}"})
train_stage "$stage on $task" "$output" no "$(value_of --teacher-model "$teacher")/result.json" \
    --task_name "$task" --data_dir "$data" --teacher_model "$teacher" "${common[@]}" "${mode[@]}"
