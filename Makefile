# make demo   the whole loop on a laptop: warm start, reinforcement learning, measured before and after (see README)
# make test   the tests; `make test-slow` also runs the real-size ones (2B in 4 bits: 15 GB of memory, some minutes)
# make seeds  three reseeded runs of the demo and the table in README (about half an hour on two cores)
PYTHON ?= python3
OUT ?= runs/demo
SEED ?= 0
BIN = .venv/bin

demo: .venv/installed
	@echo "== 1 of 2: warm start. A Qwen2-VL of 1.4 M parameters learns to describe drawn scenes and to count, from a teacher who"
	@echo "==         overlooks two in three of the objects in the right-hand column. It learns the teacher's mistakes too."
	$(BIN)/python train_sft.py --model tiny --data count --learning-rate 2e-3 --max-steps 600 --eval-batch-size 64 --logging-steps 50 --seed $(SEED) --output-dir $(OUT)/sft --resume-from-checkpoint
	@echo "== 2 of 2: GRPO. Now it sees questions and right answers only, no reasoning, and is rewarded for answering right."
	$(BIN)/python train_grpo.py --model $(OUT)/sft --data count --eval-data count:test count:ood --eval-steps 40 --learning-rate 1e-4 --max-grad-norm 0.2 \
		--prompts-per-step 16 --num-generations 8 --max-steps 160 --logging-steps 10 --micro-batch-size 64 --eval-batch-size 64 --seed $(SEED) --output-dir $(OUT)/grpo --resume-from-checkpoint

seeds: .venv/installed
	for seed in 0 1 2; do $(MAKE) demo SEED=$$seed OUT=runs/seed$$seed || exit 1; done
	$(BIN)/python tests/seed_table.py runs/seed0 runs/seed1 runs/seed2

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

.PHONY: demo seeds test test-slow clean
