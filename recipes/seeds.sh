#!/usr/bin/env bash
# The demo, or the whole one, with three seeds: the tables of docs/results.md.
#
#     bash recipes/seeds.sh demo         # ten minutes on two cores; the same command goes on after a stop
#     bash recipes/seeds.sh demo-full    # half an hour
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-demo}

for seed in 0 1 2; do
    make $what SEED=$seed OUT=runs/$what$seed
done
.venv/bin/python recipes/seed_table.py runs/${what}0 runs/${what}1 runs/${what}2
