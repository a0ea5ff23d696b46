# Conveniences for people who change wandb-spool. Nothing here is needed to use it.
PYTHON ?= python

.PHONY: links types lint test

links:  ## real paths for tools that can't follow the import mapping (mypy, IDEs)
	@rm -rf .links && mkdir -p .links/wandb_spool
	@for f in wandb_spool/*; do ln -s "$(CURDIR)/$$f" .links/wandb_spool/; done
	@for d in runner spool syncer; do ln -s "$(CURDIR)/$$d" .links/wandb_spool/$$d; done

types: links
	MYPYPATH=.links:runner/hook/site $(PYTHON) -m mypy -p wandb_spool
	cd tests && MYPYPATH=../.links:../runner/hook/site $(PYTHON) -m mypy --config-file ../pyproject.toml .
	cd benchmarks && MYPYPATH=../.links:../runner/hook/site:../tests $(PYTHON) -m mypy --config-file ../pyproject.toml .

lint:
	ruff check . && ruff format --check .

test:
	pytest
