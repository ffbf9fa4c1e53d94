#!/usr/bin/env bash
# Accuracy against sampled tokens for the objectives of docs/objectives.md, three seeds.
#
#     bash recipes/objectives.sh        # two hours on two cores, estimated; goes on after a stop
#
# All start from the shipped warm start. STEPS=20 makes a trial shorter.
set -euo pipefail
cd "$(dirname "$0")/.."
make install
PATH=$PWD/.venv/bin:$PATH
STEPS=${STEPS:-60}
OUT=${OUT:-runs/objectives}
GRPO="--model checkpoints/count --data count --eval-data count:test --eval-steps 10 \
    --max-eval-samples 256 --learning-rate 1e-4 --max-grad-norm 0.2 --lr-scheduler-type constant \
    --prompts-per-step 16 --num-generations 8 --max-steps $STEPS --max-completion-length 100 \
    --logging-steps 10 --micro-batch-size 64 --eval-batch-size 64 --resume-from-checkpoint"

for seed in 0 1 2; do
    for loss in grpo gspo cispo sapo; do
        for K in 1 4; do
            python train_grpo.py $GRPO --seed $seed --loss-type $loss --updates-per-rollout $K \
                --output-dir $OUT/$loss-$K-seed$seed
        done
    done
    for loss in dr_grpo dapo; do
        python train_grpo.py $GRPO --seed $seed --loss-type $loss --output-dir $OUT/$loss-1-seed$seed
    done
    python train_grpo.py $GRPO --seed $seed --max-resample-times 3 \
        --output-dir $OUT/resampled-1-seed$seed
done
python -m recipes.objectives_table $OUT --plot $OUT/objectives.png
