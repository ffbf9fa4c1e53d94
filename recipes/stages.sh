#!/usr/bin/env bash
# The order of stages of Idefics3 (arXiv:2408.12637): the merger, then LoRA on the language model,
# then LoRA on the tower too. Pictures grow while the merger learns; the last stages decay to 0.
#
#     bash recipes/stages.sh captions.jsonl questions.jsonl      # on a GPU; not measured yet
#
# The same command goes on after a stop. MODEL=tiny tries it on a laptop.
set -euo pipefail
captions=$(realpath "$1") questions=$(realpath "$2")
cd "$(dirname "$0")/.."
MODEL=${MODEL:-Qwen/Qwen2-VL-2B-Instruct}
OUT=${OUT:-runs/stages}
PATH=$PWD/.venv/bin:$PATH

stage() {  # model, output directory, data, what differs
    model=$1 out=$2 file=$3
    shift 3
    python train_sft.py --model $model --output-dir $out --data $file --gradient-checkpointing \
        --resume-from-checkpoint "$@"
}

# 1. The merger alone; everything else is frozen.
stage $MODEL $OUT/merger $captions --lora-r 0 --freeze-vision --freeze-llm \
    --learning-rate 1e-4 --lr-scheduler-type constant --max-pixels 100352:401408

# 2. LoRA on the language model; the merger learns on.
stage $OUT/merger $OUT/llm $questions --lora-r 16 --lora-targets llm --train-merger \
    --learning-rate 1e-4 --lr-scheduler-type constant --merge-same-image
(cd $OUT/llm-merged && sha256sum --quiet -c SHA256SUMS) 2>/dev/null \
    || python model.py export --model $OUT/llm --output-dir $OUT/llm-merged

# 3. LoRA on the tower, too, with NEFTune; linear decay to 0.
stage $OUT/llm-merged $OUT/tower $questions --lora-r 16 --lora-targets llm vision --train-merger \
    --learning-rate 5e-5 --lr-scheduler-type linear --merge-same-image --neftune-noise-alpha 5
