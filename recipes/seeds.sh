#!/usr/bin/env bash
# The demo with three seeds, and the table of docs/results.md.
#
#     bash recipes/seeds.sh        # half an hour on two cores; the same command goes on after a stop
set -euo pipefail
cd "$(dirname "$0")/.."

for seed in 0 1 2; do
    make demo SEED=$seed OUT=runs/seed$seed
done
.venv/bin/python recipes/seed_table.py runs/seed0 runs/seed1 runs/seed2
