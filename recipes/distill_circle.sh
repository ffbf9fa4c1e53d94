#!/usr/bin/env bash
# The whole circle on drawn scenes, three seeds: distilled data -> warm start -> GRPO, against the
# same with the fallible teacher's data as they are. The teacher is the same in both, so what
# differs is the checking.
#
#     bash recipes/distill_circle.sh       # 2.5 hours on two cores, estimated; goes on after a stop
#
# 20,000 questions leave about 12,800 records, which the warm start sees 2.3 times; the fallible
# teacher draws new ones without end. SAMPLES, SFT_STEPS and GRPO_STEPS make a trial shorter.
set -euo pipefail
cd "$(dirname "$0")/.."
make install
PATH=$PWD/.venv/bin:$PATH

SAMPLES=${SAMPLES:-20000}
SFT_STEPS=${SFT_STEPS:-900}
GRPO_STEPS=${GRPO_STEPS:-160}
OUT=${OUT:-runs/circle}
SFT="--model tiny --learning-rate 2e-3 --max-steps $SFT_STEPS --eval-batch-size 64 \
    --logging-steps 50 --eval-data count:test --resume-from-checkpoint"
GRPO="--data count --eval-data count:test count:ood --eval-steps 40 --learning-rate 1e-4 \
    --max-grad-norm 0.2 --prompts-per-step 16 --num-generations 8 --max-steps $GRPO_STEPS \
    --logging-steps 10 --micro-batch-size 64 --eval-batch-size 64 --resume-from-checkpoint"

for seed in 0 1 2; do
    python distill.py --mode direct --data count --teacher toy --judge toy --seed $seed \
        --max-train-samples $SAMPLES --output-dir $OUT$seed/data
    python train_sft.py $SFT --data $OUT$seed/data/distilled.jsonl --seed $seed \
        --output-dir $OUT$seed/distilled/sft
    python train_sft.py $SFT --data count --seed $seed --output-dir $OUT$seed/fallible/sft
    for data in distilled fallible; do
        python train_grpo.py $GRPO --model $OUT$seed/$data/sft --seed $seed \
            --output-dir $OUT$seed/$data/grpo
    done
done
for data in distilled fallible; do
    echo "== $data"
    python recipes/seed_table.py ${OUT}0/$data ${OUT}1/$data ${OUT}2/$data || true
done
