#!/usr/bin/env bash
# What paying for length does to `spatial`, and what contains it: writes docs/length.png.
# It starts from the warm starts of recipes/tasks.sh, so run that first.
#
#     bash recipes/length.sh       # 40 minutes on two cores; the same command goes on after a stop
set -euo pipefail
cd "$(dirname "$0")/.."
make install
PATH=$PWD/.venv/bin:$PATH

GRPO="--data spatial --eval-data spatial:test --eval-steps 25 --learning-rate 1e-4 \
    --max-grad-norm 0.2 --prompts-per-step 16 --num-generations 8 --max-steps 100 \
    --max-completion-length 256 --logging-steps 10 --micro-batch-size 64 --eval-batch-size 64 \
    --reward-funcs accuracy format length repetition repetition_penalty --resume-from-checkpoint"

# The length reward pays 0.001 a token: alone, then beside a penalty on repeated 3-grams.
for seed in 0 1 2; do
    python train_grpo.py --model runs/spatial$seed/sft $GRPO --reward-weights 1 1 1 0 0 \
        --seed $seed --output-dir runs/length$seed/paid
    python train_grpo.py --model runs/spatial$seed/sft $GRPO --reward-weights 1 1 1 0 1 \
        --seed $seed --output-dir runs/length$seed/contained
done
python recipes/seed_plot.py docs/length.png \
    --title "spatial, GRPO, three seeds (band: their range)" \
    --metrics "greedy accuracy=eval/spatial:test/accuracy" \
        "accuracy of the samples=rewards/accuracy" \
        "tokens per completion=completions/mean_length" \
        "reflection words per completion (wait, check again)=completions/reflection_words" \
        "repetition (0: none)=rewards/repetition" "format=rewards/format" \
    --runs "accuracy + format=runs/spatial0/grpo,runs/spatial1/grpo,runs/spatial2/grpo" \
        "+ length=runs/length0/paid,runs/length1/paid,runs/length2/paid" \
        "+ length + repetition_penalty=runs/length0/contained,runs/length1/contained,runs/length2/contained"
