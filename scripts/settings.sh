# What each stage is run with, by size and dataset. Sourced by common.sh.
#
# base, large: the values of the original release's scripts; its batch sizes are totals over all GPUs.
# tiny, mini:  values for the embedded default, where a stage is to take about a minute on two CPU cores.
#
# stage_settings STAGE SIZE DATASET sets
#   TOTAL_BATCH   rows per optimiser step over all processes
#   RATIOS        the plugins' compression ratios
#   SETTINGS      the other flags of train_t5.py

EMBEDDED_SIZES="tiny mini"
# Units of plugins on a T5 made here: of 1, 10 and 100 the one that learns fastest on these residual streams.
EMBEDDED_RESIDUAL_SCALE=10
PUBLISHED_SIZES="base large"
DATASETS="mnli qqp qnli sst2 rte mrpc squad"

# $1: dataset. The longest input, in tokens.
published_length() {
    case "$1" in
    mnli | qqp | rte) echo 256 ;;
    sst2 | mrpc) echo 96 ;;
    qnli) echo 356 ;;
    squad) echo 512 ;;
    esac
}

# $1: dataset. Steps between validations; -1 is once per epoch.
published_valid_step() {
    case "$1" in
    mnli) echo 2000 ;;
    rte) echo -1 ;;
    squad) echo 100 ;;
    *) echo 1000 ;;
    esac
}

# $1: dataset
embedded_length() {
    case "$1" in
    squad) echo 128 ;;
    *) echo 96 ;;
    esac
}

# $1: stage, $2: dataset
published_settings() {
    RATIOS=(4)
    TOTAL_BATCH=32
    SETTINGS=(--lr 1e-5 --weight-decay 1e-5 --clip-grad 10 --random-seed 10018)
    case "$1" in
    plugin)
        TOTAL_BATCH=64
        SETTINGS=(--lr 1e-3 --weight-decay 1e-5 --clip-grad 10 --random-seed 10018
            --schedule linear --warmup-step 50 --max-input-length 224 --epochs 5 --training-step 60000
            --valid-step 2000 --save-step 2000)
        ;;
    finetune)
        case "$2" in rte | qnli | squad) TOTAL_BATCH=16 ;; esac
        SETTINGS+=(--schedule constant --max-input-length "$(published_length "$2")" --epochs 5
            --training-step 26000 --valid-step "$(published_valid_step "$2")")
        ;;
    adapt)
        # The original has no squad branch here; its fine-tuning batch is used, since the inputs are as long.
        [[ "$2" == squad ]] && TOTAL_BATCH=16
        SETTINGS+=(--schedule constant --max-input-length "$(published_length "$2")" --epochs 50
            --training-step 26000 --valid-step "$(published_valid_step "$2")")
        ;;
    esac
}

# $1: stage, $2: dataset, $3: size
embedded_settings() {
    RATIOS=(2 4) # at rows of some 25 tokens, 8 would be filled up with more padding than it saves
    TOTAL_BATCH=32
    local common=(--weight-decay 1e-5 --clip-grad 1 --random-seed 1 --schedule linear
        --inspect-step 50)
    case "$1" in
    backbone)
        # Short and gentle: with more, a T5 of this size learns to predict the text without reading it, and its encoder
        # is then harder to teach than a fresh one (tiny: after 200 steps at 1e-4 the sentiment task stops at 0.78).
        SETTINGS=("${common[@]}" --lr 3e-5 --warmup-step 25 --max-input-length 64 --epochs 100
            --training-step 50 --valid-step 50 --valid-batches 4)
        [[ "$3" == mini ]] && SETTINGS+=(--lr 1e-4 --warmup-step 50 --training-step 400 --valid-step 200
            --valid-batches 0)
        ;;
    plugin)
        SETTINGS=("${common[@]}" --lr 1e-3 --warmup-step 20 --max-input-length 64 --epochs 100
            --training-step 80 --valid-step 80 --valid-batches 4 --residual-scale "$EMBEDDED_RESIDUAL_SCALE")
        [[ "$3" == mini ]] && SETTINGS+=(--training-step 1000 --valid-step 250 --valid-batches 0)
        ;;
    finetune)
        SETTINGS=("${common[@]}" --lr 1e-3 --warmup-step 25 --max-input-length "$(embedded_length "$2")"
            --epochs 100 --training-step 200 --valid-step 100)
        ;;
    adapt)
        SETTINGS=("${common[@]}" --lr 1e-3 --warmup-step 25 --max-input-length "$(embedded_length "$2")"
            --epochs 100 --training-step 100 --valid-step 100)
        ;;
    esac
    return 0
}

# $1: stage (backbone, plugin, finetune, adapt), $2: size, $3: dataset (may be empty)
stage_settings() {
    case "$2" in
    base | large) published_settings "$1" "$3" ;;
    *) embedded_settings "$1" "$3" "$2" ;;
    esac
}
