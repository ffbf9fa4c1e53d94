#!/usr/bin/env bash
# What the forks of docs/forks.md do on `count`, beside train_grpo.py, three seeds.
#
#     bash recipes/loops.sh        # two runs at a time on two cores; goes on after a stop
#
# All start from the shipped warm start. The teacher of on-policy distillation is train_grpo.py
# after 80 steps. STEPS=2 TAUGHT=2 makes a trial.
set -euo pipefail
cd "$(dirname "$0")/.."
make install
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1
STEPS=${STEPS:-40}
TAUGHT=${TAUGHT:-80}
OUT=${OUT:-runs/loops}
# 160 tokens: second thoughts and the longer answers of count:ood need room.
FLAGS="--model checkpoints/count --data count --eval-data count:test count:ood \
    --max-eval-samples 256 --learning-rate 1e-4 --max-grad-norm 0.2 --lr-scheduler-type constant \
    --prompts-per-step 16 --num-generations 8 --max-completion-length 160 --num-workers 0 \
    --logging-steps 10 --micro-batch-size 64 --eval-batch-size 64 --resume-from-checkpoint"

runs() { # a line each
    for seed in 0 1 2; do
        echo python train_grpo.py $FLAGS --max-steps $STEPS --seed $seed --output-dir $OUT/grpo-seed$seed
        echo python -m recipes.papo $FLAGS --max-steps $STEPS --seed $seed --output-dir $OUT/papo-seed$seed
        echo python -m recipes.noisy_rollout $FLAGS --max-steps $STEPS --seed $seed --output-dir $OUT/noisy_rollout-seed$seed
        echo python -m recipes.rethink $FLAGS --max-steps $STEPS --seed $seed --output-dir $OUT/rethink-seed$seed
        echo python -m recipes.on_policy_distillation --teacher $OUT/teacher $FLAGS --max-steps $STEPS --seed $seed --output-dir $OUT/on_policy_distillation-seed$seed
    done
}

mkdir -p $OUT
python train_grpo.py $FLAGS --max-steps $TAUGHT --seed 0 --output-dir $OUT/teacher
runs | xargs -P 2 -I RUN bash -c "RUN || exit 255"
python -m recipes.loops_table $OUT --teacher $OUT/teacher
