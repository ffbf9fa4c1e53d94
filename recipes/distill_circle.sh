#!/usr/bin/env bash
# The whole circle on drawn scenes, three seeds: distilled data -> warm start -> GRPO, against as
# many of the teacher's records as it wrote them. Both are drawn from the same replies, and are seen
# equally often: what differs is the checking.
#
#     bash recipes/distill_circle.sh       # 2.5 hours on two cores, estimated; goes on after a stop
#
# 20,000 questions leave about 12,800 records, which the warm start sees 2.3 times. SAMPLES,
# SFT_STEPS, BATCH, GRPO_STEPS and ASKED make a trial shorter. START is a checkpoint that can look already:
# then both warm starts go on from it, and RATE should be lower.
set -euo pipefail
cd "$(dirname "$0")/.."
make install
PATH=$PWD/.venv/bin:$PATH

SAMPLES=${SAMPLES:-20000}
START=${START:-tiny}
RATE=${RATE:-2e-3}
SFT_STEPS=${SFT_STEPS:-900}
BATCH=${BATCH:-32}
GRPO_STEPS=${GRPO_STEPS:-160}
ASKED=${ASKED:-512}
OUT=${OUT:-runs/circle}
SFT="--model $START --learning-rate $RATE --max-steps $SFT_STEPS --batch-size $BATCH \
    --eval-batch-size 64 --logging-steps 50 --eval-data count:test \
    --max-eval-samples $ASKED --resume-from-checkpoint"
GRPO="--data count --eval-data count:test count:ood --eval-steps 40 --learning-rate 1e-4 \
    --max-grad-norm 0.2 --prompts-per-step 16 --num-generations 8 --max-steps $GRPO_STEPS \
    --logging-steps 10 --micro-batch-size 64 --eval-batch-size 64 \
    --max-eval-samples $ASKED --resume-from-checkpoint"

for seed in 0 1 2; do
    made=$OUT$seed/data
    python distill.py --mode direct --data count --teacher toy --judge toy --seed $seed \
        --max-train-samples $SAMPLES --output-format messages --output-dir $made
    # Records without "gt": that of a wrong one would contradict its answer, and be refused.
    kept=$(wc -l < $made/distilled.jsonl)
    cat $made/distilled.jsonl $made/rejected.jsonl |
        awk -v seed=$seed 'BEGIN { srand(seed) } { print rand() "\t" $0 }' |
        sort -n | cut -f 2- | sed -n "1,${kept}p" > $made/unfiltered.jsonl
    for data in distilled unfiltered; do
        python train_sft.py $SFT --data $made/$data.jsonl --seed $seed \
            --output-dir $OUT$seed/$data/sft
        python train_grpo.py $GRPO --model $OUT$seed/$data/sft --seed $seed \
            --output-dir $OUT$seed/$data/grpo
    done
done
for data in distilled unfiltered; do
    echo "== $data"
    python recipes/seed_table.py ${OUT}0/$data ${OUT}1/$data ${OUT}2/$data || true
done
