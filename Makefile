# make install    this Python environment, .venv; the other targets make it too
# make demo       the whole loop on a laptop: warm start, reinforcement learning, measured before and after
# make labs       the exercises of labs/ as notebooks, with Jupyter to open them
# make test       the tests; `make test-slow` adds the real sizes (2B in 4 bits: 15 GB of memory, minutes)
# make lint       ruff: the format, and the rules in pyproject.toml
# make clean      removes .venv and runs
# The experiments behind the tables in docs/ are in recipes/.
PYTHON ?= python3
OUT ?= runs/demo
SEED ?= 0
MODEL ?= tiny
BIN = .venv/bin

install: .venv/installed

demo: .venv/installed
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
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-test.txt
	touch $@

clean:
	rm -rf .venv runs

.PHONY: install demo labs test test-slow lint clean
