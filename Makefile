# make demo   the whole loop on a laptop: warm start, reinforcement learning, measured before and after (see README)
# make test   the tests; `make test-slow` also runs the real-size ones (2B in 4 bits: 15 GB of memory, some minutes)
# make seeds  three reseeded runs of the demo and the table in README (about half an hour on two cores)
# make tasks  the same for the tasks `spatial` and `ground` (about an hour)
# make length after `make tasks`: what paying for length does, and what contains it; docs/length.png (about forty minutes)
# make claims STaR, R3V, DPO and MPO against each other, three seeds, and the table in README (about an hour on two cores)
PYTHON ?= python3
OUT ?= runs/demo
SEED ?= 0
BIN = .venv/bin

demo: .venv/installed
	@echo "== 1 of 2: warm start. A Qwen2-VL of 1.4 M parameters learns to describe drawn scenes and to count, from a teacher who"
	@echo "==         overlooks two in three of the objects in the right-hand column. It learns the teacher's mistakes too."
	$(BIN)/python train_sft.py --model tiny --data count --learning-rate 2e-3 --max-steps 900 --eval-batch-size 64 --logging-steps 50 --seed $(SEED) --output-dir $(OUT)/sft --resume-from-checkpoint
	@echo "== 2 of 2: GRPO. Now it sees questions and right answers only, no reasoning, and is rewarded for answering right."
	$(BIN)/python train_grpo.py --model $(OUT)/sft --data count --eval-data count:test count:ood --eval-steps 40 --learning-rate 1e-4 --max-grad-norm 0.2 \
		--prompts-per-step 16 --num-generations 8 --max-steps 160 --logging-steps 10 --micro-batch-size 64 --eval-batch-size 64 --seed $(SEED) --output-dir $(OUT)/grpo --resume-from-checkpoint

seeds: .venv/installed
	for seed in 0 1 2; do $(MAKE) demo SEED=$$seed OUT=runs/seed$$seed || exit 1; done
	$(BIN)/python tests/seed_table.py runs/seed0 runs/seed1 runs/seed2

# One task from warm start to result: `make spatial`, `make ground SEED=1 OUT=runs/ground1`.
STEPS_spatial = 600
STEPS_ground = 700
# `spatial` watches length and repetition without paying for them: `make length` compares with it.
REWARDS_spatial = accuracy format length repetition --reward-weights 1 1 0 0
REWARDS_ground = iou format
spatial ground: .venv/installed
	$(BIN)/python train_sft.py --model tiny --data $@ --prompt-template think --learning-rate 2e-3 --max-steps $(STEPS_$@) --eval-batch-size 64 --logging-steps 50 --seed $(SEED) --output-dir $(OUT)/sft --resume-from-checkpoint
	$(BIN)/python train_grpo.py --model $(OUT)/sft --data $@ --eval-data $@:test $@:ood --eval-steps 25 --reward-funcs $(REWARDS_$@) --learning-rate 1e-4 --max-grad-norm 0.2 \
		--prompts-per-step 16 --num-generations 8 --max-steps 100 --max-completion-length 256 --logging-steps 10 --micro-batch-size 64 --eval-batch-size 64 --seed $(SEED) \
		--output-dir $(OUT)/grpo --resume-from-checkpoint

tasks: .venv/installed
	for task in spatial ground; do for seed in 0 1 2; do $(MAKE) $$task SEED=$$seed OUT=runs/$$task$$seed || exit 1; done; done
	for task in spatial ground; do $(BIN)/python tests/seed_table.py runs/$${task}0 runs/$${task}1 runs/$${task}2 || exit 1; done

# From the same warm starts as `spatial`: 0.001 a token on top of accuracy and format, alone and beside open-r1's penalty on repeated 3-grams.
LENGTH = --data spatial --eval-data spatial:test --eval-steps 25 --learning-rate 1e-4 --max-grad-norm 0.2 --prompts-per-step 16 --num-generations 8 --max-steps 100 \
	--max-completion-length 256 --logging-steps 10 --micro-batch-size 64 --eval-batch-size 64 --reward-funcs accuracy format length repetition repetition_penalty
length: .venv/installed
	for seed in 0 1 2; do \
		$(BIN)/python train_grpo.py --model runs/spatial$$seed/sft $(LENGTH) --reward-weights 1 1 1 0 0 --seed $$seed --output-dir runs/length$$seed/paid --resume-from-checkpoint && \
		$(BIN)/python train_grpo.py --model runs/spatial$$seed/sft $(LENGTH) --reward-weights 1 1 1 0 1 --seed $$seed --output-dir runs/length$$seed/contained --resume-from-checkpoint || exit 1; done
	$(BIN)/python tests/seed_plot.py docs/length.png --title "spatial, GRPO, three seeds (band: their range)" \
		--metrics "greedy accuracy=eval/spatial:test/accuracy" "accuracy of the samples=rewards/accuracy" "tokens per completion=completions/mean_length" \
		"reflection words per completion (wait, check again)=completions/reflection_words" "repetition (0: none)=rewards/repetition" "format=rewards/format" \
		--runs "accuracy + format=runs/spatial0/grpo,runs/spatial1/grpo,runs/spatial2/grpo" "+ length=runs/length0/paid,runs/length1/paid,runs/length2/paid" \
		"+ length + repetition_penalty=runs/length0/contained,runs/length1/contained,runs/length2/contained"

# What STaR, R3V, DPO and MPO claim, tried on `table`; writes README's table. It may be stopped; the same command goes on.
claims: .venv/installed
	$(BIN)/python tests/claims.py runs/claims

test: .venv/installed
	$(BIN)/python -m pytest

test-slow: .venv/installed
	$(BIN)/python -m pytest -m "slow or not slow"

.venv/installed: requirements.txt requirements-test.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: Python 3.10 or newer is needed; for example: make demo PYTHON=python3.12")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-test.txt
	touch $@

clean:
	rm -rf .venv runs

.PHONY: demo seeds spatial ground tasks length claims test test-slow clean
