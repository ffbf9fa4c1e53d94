#!/usr/bin/env bash
# The toy tasks `spatial` and `ground` with three seeds, and the tables of docs/results.md.
#
#     bash recipes/tasks.sh        # an hour on two cores; the same command goes on after a stop
set -euo pipefail
cd "$(dirname "$0")/.."
make install
PATH=$PWD/.venv/bin:$PATH

WARM_START="--model tiny --prompt-template think --learning-rate 2e-3 --eval-batch-size 64 \
    --logging-steps 50 --resume-from-checkpoint"
GRPO="--eval-steps 25 --learning-rate 1e-4 --max-grad-norm 0.2 --prompts-per-step 16 \
    --num-generations 8 --max-steps 100 --max-completion-length 256 --logging-steps 10 \
    --micro-batch-size 64 --eval-batch-size 64 --resume-from-checkpoint"

# `spatial` logs length and repetition at weight 0: recipes/length.sh compares with it.
for seed in 0 1 2; do
    python train_sft.py $WARM_START --data spatial --max-steps 600 --seed $seed \
        --output-dir runs/spatial$seed/sft
    python train_grpo.py $GRPO --model runs/spatial$seed/sft --data spatial \
        --eval-data spatial:test spatial:ood --seed $seed \
        --reward-funcs accuracy format length repetition --reward-weights 1 1 0 0 \
        --output-dir runs/spatial$seed/grpo
done
for seed in 0 1 2; do
    python train_sft.py $WARM_START --data ground --max-steps 700 --seed $seed \
        --output-dir runs/ground$seed/sft
    python train_grpo.py $GRPO --model runs/ground$seed/sft --data ground \
        --eval-data ground:test ground:ood --seed $seed --reward-funcs iou format \
        --output-dir runs/ground$seed/grpo
done
python recipes/seed_table.py runs/spatial0 runs/spatial1 runs/spatial2
python recipes/seed_table.py runs/ground0 runs/ground1 runs/ground2
