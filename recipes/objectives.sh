#!/usr/bin/env bash
# Accuracy against sampled tokens for the objectives of docs/objectives.md, three seeds.
#
#     bash recipes/objectives.sh        # two runs at a time on two cores; goes on after a stop
#
# All start from the shipped warm start. STEPS=2 makes a trial shorter.
set -euo pipefail
cd "$(dirname "$0")/.."
make install
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1
STEPS=${STEPS:-30}
OUT=${OUT:-runs/objectives}
GRPO="--model checkpoints/count --data count --eval-data count:test --eval-steps 3 \
    --max-eval-samples 256 --learning-rate 1e-4 --max-grad-norm 0.2 --lr-scheduler-type constant \
    --prompts-per-step 16 --num-generations 8 --max-steps $STEPS --max-completion-length 100 \
    --logging-steps 10 --micro-batch-size 64 --eval-batch-size 64 --resume-from-checkpoint"

arms() { # a line each: the run's name, then its flags
    for K in 1 4; do
        for loss in grpo gspo cispo sapo; do
            echo "$loss-$K --loss-type $loss --updates-per-rollout $K"
        done
    done
    echo "resampled-1 --max-resample-times 3"
    echo "dr_grpo-1 --loss-type dr_grpo"
    echo "dapo-1 --loss-type dapo"
}

run() { # NAME FLAGS...
    name=$1-seed$seed
    shift
    python train_grpo.py $GRPO --seed $seed "$@" --output-dir $OUT/$name
}
export GRPO OUT seed
export -f run

mkdir -p "$OUT"
for seed in 0 1 2; do
    arms | xargs -P 2 -I ARM bash -c "run ARM || exit 255" # after which xargs starts no more
done
python -m recipes.objectives_table "$OUT" --plot "$OUT/objectives.png"
