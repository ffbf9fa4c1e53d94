# make install    this Python environment, .venv; the other targets make it too
# make demo       reinforcement learning on a laptop, in a minute or two: measured before and after
# make demo-full  the whole loop, a quarter of an hour: warm start, too
# make labs       the exercises of labs/ as notebooks, with Jupyter to open them
# make test       the tests; `make test-slow` adds the real sizes (2B in 4 bits: 15 GB of memory, minutes)
# make lint       ruff: the format, and the rules in pyproject.toml
# make clean      removes .venv and runs
# make checkpoints trains again what is in checkpoints/, for whoever changes the tiny model: half an hour
# The experiments behind the tables in docs/ are in recipes/.
PYTHON ?= python3
OUT ?= runs/demo
SEED ?= 0
MODEL ?= tiny
BIN = .venv/bin

install: .venv/installed

# About a minute on two idle cores, from a warm start that is in the repository.
demo: .venv/installed
	@echo "== GRPO, from checkpoints/count: a Qwen2-VL of 1.4 M parameters that describes drawn scenes and counts, but"
	@echo "== overlooks the right-hand column, as its teacher did. It sees questions and right answers only."
	$(BIN)/python train_grpo.py --model checkpoints/count --data count --eval-data count:test --eval-steps 10 \
		--max-eval-samples 256 --learning-rate 1e-4 --lr-scheduler-type constant --max-grad-norm 0.2 \
		--prompts-per-step 16 --num-generations 8 --max-steps 40 --max-completion-length 128 --logging-steps 5 \
		--micro-batch-size 64 --eval-batch-size 64 --seed $(SEED) --output-dir $(OUT) --resume-from-checkpoint

demo-full: OUT = runs/demo-full
demo-full: .venv/installed
	@echo "== 1 of 2: warm start. A Qwen2-VL of 1.4 M parameters learns to describe drawn scenes and to count, from a"
	@echo "==         teacher that overlooks two in three of the objects in the right-hand column, mistakes and all."
	$(BIN)/python train_sft.py --model $(MODEL) --data count --learning-rate 2e-3 --max-steps 900 \
		--eval-batch-size 64 --logging-steps 50 --seed $(SEED) --output-dir $(OUT)/sft --resume-from-checkpoint
	@echo "== 2 of 2: GRPO. Now it sees questions and right answers only, and is rewarded for answering right."
	$(BIN)/python train_grpo.py --model $(OUT)/sft --data count --eval-data count:test count:ood --eval-steps 40 \
		--learning-rate 1e-4 --max-grad-norm 0.2 --prompts-per-step 16 --num-generations 8 --max-steps 160 \
		--logging-steps 10 --micro-batch-size 64 --eval-batch-size 64 --seed $(SEED) --output-dir $(OUT)/grpo \
		--resume-from-checkpoint

# What a student has filled in is never overwritten: a notebook is made only where there is none.
NOTEBOOKS = $(patsubst %.py,%.ipynb,$(wildcard labs/[0-9]*.py))

labs: .venv/labs $(NOTEBOOKS)
	@echo "Open them with:  $(BIN)/jupyter lab labs"

labs/%.ipynb: | labs/%.py .venv/labs
	$(BIN)/jupytext --quiet --to ipynb --set-kernel python3 labs/$*.py

.venv/labs: .venv/installed requirements-labs.txt
	$(BIN)/python -m pip install --quiet -r requirements-labs.txt
	touch $@

# What checkpoints/ holds, trained again in runs/checkpoints: half an hour on two cores. Go on after a stop by the same
# command. `count` is the warm start of demo-full; `table` those of docs/selftraining.md, to read and then to compare.
checkpoints: .venv/installed
	$(BIN)/python train_sft.py --model tiny --data count --learning-rate 2e-3 --max-steps 900 \
		--eval-batch-size 64 --logging-steps 50 --seed 0 --output-dir runs/checkpoints/count --resume-from-checkpoint
	$(BIN)/python recipes/ship.py runs/checkpoints/count checkpoints/count
	$(BIN)/python train_sft.py --model tiny --data table_reading --prompt-template think --learning-rate 2e-3 \
		--warmup-steps 20 --lr-scheduler-type constant --max-steps 200 --output-dir runs/checkpoints/reading \
		--resume-from-checkpoint
	$(BIN)/python train_sft.py --model runs/checkpoints/reading --data table_basics --eval-data table:test \
		--learning-rate 1.5e-3 --warmup-steps 20 --max-steps 600 --per-example --micro-batch-size 16 \
		--output-dir runs/checkpoints/table --resume-from-checkpoint
	$(BIN)/python recipes/ship.py runs/checkpoints/table checkpoints/table

# A process for each core: a file's tests stay together, since they share what took long to make.
PYTEST = $(BIN)/python -m pytest -n auto --dist loadfile

test: .venv/installed
	$(PYTEST)

test-slow: .venv/installed
	$(PYTEST) -m "slow or not slow"

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.venv/installed: requirements.txt requirements-test.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: Python 3.10 or newer is needed; for example: make demo PYTHON=python3.12")'
	@echo "== installing the packages of requirements.txt and requirements-test.txt into .venv: silent for a minute or more"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-test.txt
	touch $@

clean:
	rm -rf .venv runs

.PHONY: install demo demo-full checkpoints labs test test-slow lint clean
