#!/usr/bin/env bash
# Can dynamic sampling reach an accuracy with fewer sampled tokens than GRPO? Four settings with and
# without it, and one with a single try; three seeds. docs/objectives.md has what came out.
#
#     bash recipes/resampling.sh        # two runs at a time on two cores; goes on after a stop
set -euo pipefail
cd "$(dirname "$0")/.."
make install
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1
OUT=${OUT:-runs/resampling}
GRPO="--model checkpoints/count --data count --eval-data count:test --eval-steps 2 \
    --max-eval-samples 256 --max-grad-norm 0.2 --lr-scheduler-type constant --num-generations 8 \
    --max-steps 12 --max-completion-length 100 --logging-steps 10 --micro-batch-size 64 \
    --eval-batch-size 64 --resume-from-checkpoint"

pair() { # NAME FLAGS...: GRPO, and with dynamic sampling
    echo "grpo_$1 ${*:2}"
    echo "resampled_$1 --max-resample-times 3 ${*:2}"
}

arms() { # a line each: the run's name, then its flags
    pair N16_lr2e4-1 --prompts-per-step 16 --learning-rate 2e-4
    pair N16_lr4e4-1 --prompts-per-step 16 --learning-rate 4e-4
    pair N6_lr1e4-1 --prompts-per-step 6 --learning-rate 1e-4 --max-steps 24
    pair N16_lr1e4-4 --prompts-per-step 16 --learning-rate 1e-4 --updates-per-rollout 4
    echo "resampled_once-1 --prompts-per-step 16 --learning-rate 1e-4 --max-resample-times 1"
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
python -m recipes.objectives_table "$OUT"
