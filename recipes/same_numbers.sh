#!/usr/bin/env bash
# The same short commands in two checkouts of this repository, and every difference between them.
#
#     recipes/same_numbers.sh OLD NEW        # 0: no difference, 1: some, 2: it could not run
#
# OLD and NEW are checkouts. What they write goes to $WORK/old and $WORK/new (default: /tmp/same).
# One call at a time for each WORK. Another WORK may start with a copy of $WORK/old.
# $WORK/old is kept: what OLD ran already, at the same commit after the same commands, is reused.
# PYTHON names the interpreter; by default it is .venv/bin/python of NEW.
# ONLY=regex runs and compares only the commands that match; what these start from must match too.
# A new command goes to the end, so that all before it need not run again in OLD.
set -u
if [ $# -ne 2 ] || [ ! -f "$1/train_sft.py" ] || [ ! -f "$2/train_sft.py" ]; then
    echo "usage: recipes/same_numbers.sh OLD NEW   (two checkouts)" >&2
    exit 2
fi
OLD=$(realpath "$1")
NEW=$(realpath "$2")
HERE=$(realpath "$(dirname "$0")")
mkdir -p "${WORK:=/tmp/same}" && WORK=$(realpath "$WORK") || exit 2
PYTHON=${PYTHON:-$NEW/.venv/bin/python}
if ! "$PYTHON" -c "import torch"; then
    echo "no torch in $PYTHON: run make in $NEW, or name an environment by PYTHON" >&2
    exit 2
fi
# One thread: sums then have one order. The rest keeps texts and their widths alike.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONHASHSEED=0 HF_HUB_OFFLINE=1 COLUMNS=100
unset PYTHONPATH

# run NAME SCRIPT FLAGS...: one command of the checkout, in the tree's directory.
# All paths that it gets are relative to that, so that they are the same in both trees.
# CHAIN is a checksum of the commit and of every command up to this one: what it may start from.
run() {
    local name=$1 script=$2 started=$SECONDS code
    shift 2
    CHAIN=$(echo "$CHAIN $script $*" | cksum)
    NAMES="$NAMES $name "
    [[ $name =~ ${ONLY:-.} ]] || return 0
    if [ "$REUSE" = yes ] && [ "$(cat ".done/$name" 2>/dev/null)" = "$CHAIN" ]; then
        return 0
    fi
    rm -rf "$name" "$name".* ".done/$name"
    if [ -n "${START:-}" ]; then
        mkdir "$name"
        cp -r "$START" "$name/"
    fi
    nice "$PYTHON" "$CHECKOUT/$script" "$@" >"$name.out" 2>".log/$name" </dev/null
    code=$?
    echo "$code" >"$name.code"
    if [ "$code" -ne 0 ]; then
        tail -n 3 ".log/$name" >"$name.error"
    fi
    echo "$CHAIN" >".done/$name"
    printf '%s %-20s %4d s   code %d\n' "$(basename "$PWD")" "$name" $((SECONDS - started)) "$code"
    case $name:$code in refused_*:[12] | *:0) ;; *) tail -n 1 ".log/$name" ;; esac
}

# train NAME SCRIPT FLAGS...: the same for a command that has an --output-dir.
train() {
    local name=$1 script=$2
    shift 2
    run "$name" "$script" "$@" --output-dir "$name"
}

# resume NAME FROM CHECKPOINT SCRIPT FLAGS...: go on from a checkpoint of FROM in a directory NAME.
resume() {
    local name=$1 from=$2 checkpoint=$3 script=$4
    shift 4
    START=$from/$checkpoint train "$name" "$script" "$@" \
        --resume-from-checkpoint "$name/$checkpoint"
}

# first_of SCRIPT...: the first that this checkout has.
first_of() {
    local script
    for script in "$@"; do
        if [ -f "$CHECKOUT/$script" ]; then
            echo "$script"
            return
        fi
    done
    echo "$1"
}

# pairs NAME METHOD FLAGS...: DPO or MPO from given pairs, which may have a script of its own.
pairs() {
    local name=$1 method=$2
    shift 2
    if [ -f "$CHECKOUT/train_dpo.py" ]; then
        train "$name" train_dpo.py --method "$method" "$@"
    else
        train "$name" selftrain.py --method "$method" "$@"
    fi
}

commands() {
    local I=../inputs sft short loop table r3v paired given ask protocol export_script
    short="--max-completion-length 80 --eval-batch-size 32 --micro-batch-size 8"
    export_script=$(first_of export.py loading.py model.py)

    # The warm start, its second half again, and one epoch of a file.
    sft="--data count --level 1 --learning-rate 2e-3 --batch-size 16 --max-completion-length 100
        --max-steps 60 --save-steps 30 --logging-steps 10 --eval-data count:test $I/count.jsonl
        --eval-steps 30 --max-eval-samples 32 --eval-batch-size 32"
    train sft train_sft.py --model tiny $sft
    resume sft_resumed sft checkpoint-30 train_sft.py --model tiny $sft
    train sft_file train_sft.py --model sft --data $I/count.jsonl --batch-size 4 --per-example \
        --freeze-vision --lr-scheduler-type cosine --warmup-steps 2 --max-completion-length 100
    train sft_lora train_sft.py --model sft --data spatial --lora-r 4 --lora-dropout 0.1 \
        --prompt-template think --system-prompt Look. --batch-size 4 --max-steps 4 \
        --gradient-checkpointing --max-completion-length 100 --max-grad-norm 0

    # GRPO: the weights themselves and LoRA, without and with a reference.
    loop="--data count --level 1 --prompts-per-step 4 --num-generations 4 --num-iterations 2
        --reward-funcs accuracy format length repetition --learning-rate 5e-4 --max-steps 12
        --eval-data count:test $I/count.jsonl --max-eval-samples 16 --eval-steps 6
        --save-steps 6 $short"
    train grpo_full train_grpo.py --model sft $loop --beta 0
    train grpo_full_kl train_grpo.py --model sft $loop --beta 0.04
    train grpo_lora train_grpo.py --model sft $loop --beta 0 --lora-r 4
    train grpo_lora_kl train_grpo.py --model sft $loop --beta 0.04 --lora-r 4
    resume grpo_resumed grpo_lora_kl checkpoint-6 train_grpo.py --model sft $loop --beta 0.04 \
        --lora-r 4
    loop="--prompts-per-step 2 --num-generations 4 --max-steps 3 --learning-rate 1e-3 $short
        --max-eval-samples 8"
    train grpo_dapo train_grpo.py --model sft --data $I/count.jsonl $loop --loss-type dapo \
        --epsilon-high 0.28 --mask-truncated-completions --top-p 0.9 --top-k 40 \
        --reward-funcs accuracy format soft_overlong cosine repetition_penalty
    train grpo_dr train_grpo.py --model grpo_lora --data count --level 2 $loop --loss-type dr_grpo \
        --scale-rewards none --temperature 0.8 --reward-weights 2 0.5
    train grpo_ground train_grpo.py --model sft --data ground --level 1 $loop --loss-type bnpo \
        --prompt-template think --reward-funcs iou format --freeze-vision --warmup-steps 0.5

    # Self-training on tables. It needs a model that is right now and then.
    train warm_table train_sft.py --model tiny --data table --level 1 --prompt-template think \
        --learning-rate 2e-3 --batch-size 16 --max-steps 60 --max-completion-length 100 \
        --eval-data table:test --max-eval-samples 32 --eval-batch-size 32 --logging-steps 20
    table="--model warm_table --data table --level 1 --max-train-samples 24 --iterations 1
        --eval-data table:test --max-eval-samples 16 --eval-batch-size 32
        --max-completion-length 80 --logging-steps 2 --save-steps 4"
    r3v="$table --learning-rate 3e-4 --batch-size 8 --micro-batch-size 8"
    train r3v selftrain.py --method r3v $r3v --warmup-data table --max-warmup-samples 24 \
        --num-generations 4 --num-train-epochs 1 --per-example
    train star selftrain.py --method star $r3v --rationalization --continue-training --max-steps 6
    paired="$table --num-generations 4 --batch-size 8 --max-steps 6 --learning-rate 1e-4"
    train dpo selftrain.py --method dpo $paired --label-smoothing 0.1
    train mpo selftrain.py --method mpo $paired --lora-r 4 --instructions mpo
    train mpo_ntp selftrain.py --method mpo $paired --pair-source dropout_ntp --num-samples 0

    # The same losses from given pairs.
    given="--model warm_table --pairs $I/pairs.jsonl --batch-size 4 --max-steps 4
        --learning-rate 1e-3 --max-completion-length 60 --eval-data $I/count.jsonl
        --max-eval-samples 8 --num-samples 0"
    pairs dpo_given dpo $given --beta 0.3
    pairs mpo_given mpo $given --lora-r 4

    # Evaluation, of a model and of saved outputs.
    ask="--eval-batch-size 32 --max-completion-length 80"
    train eval_select evaluate.py --model r3v --data table:test --level 1 --max-eval-samples 24 \
        --num-samples 1 2 3 4 --self-select --temperature 0.9 --top-p 0.95 --top-k 50 --seed 3 $ask
    train eval_lora evaluate.py --model grpo_lora_kl --data count:ood --max-eval-samples 16 \
        --num-samples 3 $ask
    train eval_protocol evaluate.py --model sft --data $I/count.jsonl --protocol superclevr \
        --prompt-template r1v --num-samples 2 $ask
    for protocol in chartqa tabmwp rec cvbench geoqa; do
        train "saved_$protocol" evaluate.py --predictions $I/$protocol.jsonl --protocol $protocol
    done

    # Export, of all weights and of LoRA, and one question about one picture.
    train export_full "$export_script" export --model grpo_full --dtype float32
    train export_lora "$export_script" export --model grpo_lora_kl
    run ask_greedy generate.py --model grpo_full --image $I/picture.png \
        --prompt "How many red objects are there?" --max-completion-length 80
    run ask_seeded generate.py --model export_lora --image $I/picture.png --raw --seed 7 \
        --prompt "How many red objects are there?" --max-completion-length 80 \
        --temperature 1 --top-p 0.9 --num-generations 4 --prompt-template r1v

    # What is refused, in the same words.
    train refused_flag train_grpo.py --model sft --data count --num-generations 1
    train refused_data train_sft.py --model sft --data $I/broken.jsonl --max-steps 1
    run refused_again train_grpo.py --model sft --data count --max-steps 1 --output-dir grpo_full
}

# tree NAME CHECKOUT: all commands of one checkout, in $WORK/NAME.
tree() {
    local started=$SECONDS name
    CHECKOUT=$2
    CHAIN="$(git -C "$CHECKOUT" rev-parse HEAD 2>/dev/null) $(cat "$WORK"/inputs/* | cksum)"
    if [ -n "$(git -C "$CHECKOUT" status --porcelain --untracked-files=no 2>&1)" ]; then
        REUSE=no  # no commit says what this code is
    fi
    mkdir -p "$WORK/$1/.done" "$WORK/$1/.log" && cd "$WORK/$1" || exit 2
    [ -f .place ] || pwd -P >.place  # an adapter names its base by the whole path
    NAMES=
    commands
    for name in $(ls .done); do
        case $NAMES in *" $name "*) ;; *) rm -rf "$name" "$name".* ".done/$name" ;; esac
    done
    echo "$1: $CHECKOUT, $((SECONDS - started)) s"
}

"$PYTHON" "$HERE/same_numbers.py" inputs "$WORK/inputs" "$OLD" || exit 2
REUSE=yes
tree old "$OLD"
REUSE=no
[ -n "${ONLY:-}" ] || rm -rf "$WORK/new"
tree new "$NEW"
"$PYTHON" "$HERE/same_numbers.py" compare "$WORK/old" "$WORK/new" --only "${ONLY:-.}" \
    --checkouts "$OLD" "$NEW"
