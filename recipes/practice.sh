#!/usr/bin/env bash
# Flags of supervised training on and off, three seeds: the table in docs/results.md.
#
#     bash recipes/practice.sh     # a quarter of an hour on one core; goes on after a stop
set -euo pipefail
cd "$(dirname "$0")/.."
make install
PATH=$PWD/.venv/bin:$PATH
out=${1:-runs/practice}

SFT="--model tiny --data count --level 1 --eval-data count:test --batch-size 8 \
    --learning-rate 2e-3 --max-steps 300 --max-completion-length 128 --max-eval-samples 256 \
    --eval-batch-size 64 --save-steps 100 --logging-steps 50 --resume-from-checkpoint"

for seed in 0 1 2; do
    python train_sft.py $SFT --seed $seed --output-dir $out/off$seed
    python train_sft.py $SFT --seed $seed --neftune-noise-alpha 5 --output-dir $out/neftune$seed
    python train_sft.py $SFT --seed $seed --group-by-length --output-dir $out/grouped$seed
done
python recipes/practice_table.py $out/off $out/neftune $out/grouped
