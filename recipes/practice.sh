#!/usr/bin/env bash
# Flags of supervised training on and off, three seeds: the tables in docs/results.md.
#
#     bash recipes/practice.sh     # half an hour on one core, estimated; goes on after a stop
#
# STEPS makes a trial shorter.
set -euo pipefail
cd "$(dirname "$0")/.."
make install
PATH=$PWD/.venv/bin:$PATH
out=${1:-runs/practice}

SFT="--model tiny --learning-rate 2e-3 --max-steps ${STEPS:-300} --max-completion-length 128 \
    --max-eval-samples 256 --eval-batch-size 64 --save-steps 100 --logging-steps 50 \
    --resume-from-checkpoint"
COUNT="$SFT --data count --level 1 --eval-data count:test --batch-size 8"
MIX="$SFT --data $out/data/count/distilled.jsonl $out/data/spatial/distilled.jsonl --level 1 \
    --eval-data count:test spatial:test --batch-size 8"
SHARED="$SFT --data $out/data/shared.jsonl --level 1 --eval-data count:test"

# Right worked answers: a few about counts, many about places; and three questions on each picture.
python distill.py --mode direct --data count --level 1 --teacher toy --judge toy \
    --max-train-samples 200 --output-dir $out/data/count
python distill.py --mode direct --data spatial --level 1 --teacher toy --judge toy \
    --max-train-samples 1200 --output-dir $out/data/spatial
python recipes/practice_data.py --output-dir $out/data

for seed in 0 1 2; do
    python train_sft.py $COUNT --seed $seed --output-dir $out/off$seed
    python train_sft.py $COUNT --seed $seed --neftune-noise-alpha 5 --output-dir $out/neftune$seed
    python train_sft.py $COUNT --seed $seed --group-by-length --output-dir $out/grouped$seed
    python train_sft.py $COUNT --seed $seed --max-pixels 3136:12544 --output-dir $out/growing$seed

    python train_sft.py $MIX --seed $seed --output-dir $out/mixed$seed
    python train_sft.py $MIX --seed $seed --mixture-weights 1 1 --output-dir $out/weighted$seed

    # As many answers a step: 8 conversations have 24 questions.
    python train_sft.py $SHARED --seed $seed --batch-size 24 --output-dir $out/alone$seed
    python train_sft.py $SHARED --seed $seed --batch-size 8 --merge-same-image \
        --max-completion-length 512 --output-dir $out/merged$seed
done
python recipes/practice_table.py $out/off $out/neftune $out/grouped $out/growing
python recipes/practice_table.py $out/mixed $out/weighted
python recipes/practice_table.py $out/alone $out/merged
