#!/usr/bin/env bash
# How long a command takes alone, and beside a process that keeps one core busy: both, and the ratio.
#
#     bash recipes/busy.sh                 # a short demo: 3 minutes twice on two quiet cores
#     bash recipes/busy.sh make demo-full OUT=runs/busy    # the whole of it: half an hour and more
#
# A command that goes on where it stopped would have nothing to do the second time: what it writes
# into runs/busy is removed before each turn.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}

short_demo() {
    "$PYTHON" train_sft.py --model tiny --data count --learning-rate 2e-3 --max-steps 60 \
        --eval-batch-size 64 --max-eval-samples 64 --max-completion-length 100 \
        --logging-steps 20 --output-dir runs/busy/sft
    "$PYTHON" train_grpo.py --model runs/busy/sft --data count --eval-data count:test \
        --learning-rate 1e-4 --prompts-per-step 16 --num-generations 8 --max-steps 10 \
        --max-completion-length 100 --max-eval-samples 64 --micro-batch-size 64 \
        --eval-batch-size 64 --logging-steps 5 --output-dir runs/busy/grpo
}

seconds_of() {
    rm -rf runs/busy
    local started=$EPOCHREALTIME
    "$@" >&2
    awk -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'
}

[ $# -gt 0 ] || set -- short_demo
echo "load before: $(cut -d' ' -f1-3 /proc/loadavg)"
alone=$(seconds_of "$@")
"$PYTHON" -c "while True: pass" &
busy=$!
trap 'kill $busy' EXIT
beside=$(seconds_of "$@")
awk -v a="$alone" -v b="$beside" \
    'BEGIN { printf "alone %s s, beside a busy core %s s: %.2f times as long\n", a, b, b / a }'
