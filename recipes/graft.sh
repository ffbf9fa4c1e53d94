#!/usr/bin/env bash
# A text-only LLM that reasons about scenes in words is given eyes: the table of docs/results.md.
# The tower comes from one tiny model that was trained on pictures; the seeds change all the rest.
#
#     bash recipes/graft.sh        # 20 minutes of CPU time; the same command goes on after a stop
set -euo pipefail
cd "$(dirname "$0")/.."
make install
PATH=$PWD/.venv/bin:$PATH

whole() { (cd "$1" && sha256sum --quiet -c SHA256SUMS) > /dev/null 2>&1; }  # as it was written

OUT=runs/graft
SMALL="--max-completion-length 128 --eval-batch-size 64 --max-eval-samples 200 --logging-steps 25 \
    --resume-from-checkpoint"
EVAL="--eval-data count:test count_words:test count_captions:test"
STAGE="--lora-r 0 --freeze-vision --batch-size 16"

python train_sft.py --model tiny --data count --teacher gold --learning-rate 2e-3 --max-steps 600 \
    --eval-batch-size 64 --max-eval-samples 256 --logging-steps 50 --eval-steps 300 --seed 0 \
    --output-dir $OUT/vision --resume-from-checkpoint
for seed in 0 1 2; do
    python train_sft.py --model tiny --data count_words --learning-rate 2e-3 --max-steps 300 \
        $SMALL --seed $seed --output-dir $OUT/words$seed
    if ! whole $OUT/llm$seed; then
        python recipes/text_llm.py --model $OUT/words$seed --seed $seed --output-dir $OUT/llm$seed
    fi
    if ! whole $OUT/grafted$seed; then
        python model.py graft --llm $OUT/llm$seed --vision $OUT/vision --output-dir $OUT/grafted$seed
    fi
    for task in count count_words count_captions; do
        python evaluate.py --model $OUT/grafted$seed --data $task:test --max-eval-samples 200 \
            --max-completion-length 128 --eval-batch-size 64 \
            --output-dir $OUT/before$seed/$task --resume-from-checkpoint
    done
    python train_sft.py --model $OUT/grafted$seed --data count_captions $STAGE --freeze-llm \
        --learning-rate 2e-3 --max-steps 150 $SMALL $EVAL --seed $seed --output-dir $OUT/stage1_$seed
    python train_sft.py --model $OUT/stage1_$seed --data count --teacher gold $STAGE \
        --learning-rate 1e-3 --max-steps 200 $SMALL $EVAL --seed $seed --output-dir $OUT/stage2_$seed
done
python recipes/graft_table.py $OUT 0 1 2
