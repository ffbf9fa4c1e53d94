#!/usr/bin/env bash
# The traps of docs/traps.md, measured on checkpoints that answer `count`.
#
#     bash recipes/traps.sh runs/traps checkpoints/count runs/demo    # goes on after a stop
set -euo pipefail
OUT=$(realpath -m "$1")
shift
MODELS=$(realpath "$@")
cd "$(dirname "$0")/.."

ASK="--max-eval-samples 256 --eval-batch-size 64 --max-completion-length 160 --resume-from-checkpoint"
python recipes/count_choices.py --data count:test --number 256 --output-dir "$OUT/choices"
for model in $MODELS; do
    name=$OUT/$(basename "$model")
    python evaluate.py --model "$model" --data count:test $ASK --blind --swap --consistency \
        --templates r1v direct --num-samples 1 2 4 8 --output-dir "$name-ways"
    python evaluate.py --model "$model" --data "$OUT/choices/questions.jsonl" $ASK \
        --shuffle-choices 3 --choices-by likelihood --output-dir "$name-choices"
    python evaluate.py --model "$model" --data count:test $ASK --shots 2 --output-dir "$name-shots"
done
