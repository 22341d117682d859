# The commands of this project; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help run test check bench fuzz docs clean packages
.NOTPARALLEL:

# The first Python that is new enough; `make PYTHON=python3.13 ...` names another.
PYTHON ?= $(shell for p in python3 /usr/bin/python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
RUN_STAMP := .venv/.installed
TEST_STAMP := .venv/.installed-dev
SCRIPTS = $(shell grep -rlIE --exclude-dir=node_modules '^\#!.*[ /](ba|da|a)?sh( |$$)' .ci bench init.d openwrt tests 2>/dev/null)

help:  ## list these commands
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

run: $(RUN_STAMP)  ## install into .venv and start the proxy; Ctrl-C stops it
	@printf '%s\n' \
	'bifrost-lite with its built-in defaults; Ctrl-C stops it. In a second terminal try:' \
	'' \
	'  $(BIN)/bifrost-lite events                          watch connections come and go' \
	'' \
	'and in a third:' \
	'' \
	'  curl -x http://127.0.0.1:7080 http://example.com/      through the HTTP proxy' \
	'  curl -x socks5h://127.0.0.1:7180 http://example.com/   through the SOCKS proxy' \
	'  $(BIN)/bifrost-lite status' \
	'' \
	'Page: http://127.0.0.1:7082/   Events for programs: ws://127.0.0.1:7082/api/v1/ws' \
	''
# In a terminal the proxy gets its own job, so that Ctrl-C ends the proxy and not make.
	@test ! -t 0 || set -m; trap : INT; $(BIN)/bifrost-lite run

test: packages $(TEST_STAMP) $(if $(wildcard tests/package.json),tests/node_modules/.package-lock.json)  ## install what the tests need (Debian packages when root) and run them all (ARGS: for pytest)
# With CI set, pytest works out whole differences of megabytes, for assertions that tests expect
# to fail as well. No test asks for it: what is missing is an error everywhere.
	env -u CI $(BIN)/pytest $(ARGS)

check: $(TEST_STAMP) tests/node_modules/.package-lock.json  ## lint, types, oldest Python, shell scripts
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/vermin --quiet --target=3.10- --eval-annotations --no-tips --violations --exclude tomllib bifrost_lite
	tests/node_modules/.bin/eslint --config tests/eslint.config.mjs bifrost_lite/web
	@if command -v shellcheck >/dev/null || test "$$CI" = true; \
	then echo shellcheck $(SCRIPTS); shellcheck $(SCRIPTS); \
	else echo 'shellcheck is not installed: shell scripts are not checked'; fi

bench: packages $(RUN_STAMP)  ## compare with other proxies on this machine (ARGS=--quick: in minutes)
	$(BIN)/python -m bench $(ARGS)

fuzz: $(TEST_STAMP)  ## the generated tests with many more examples
	$(BIN)/pytest -m hypothesis --hypothesis-profile=fuzz --timeout=3600 $(ARGS)

docs: $(TEST_STAMP)  ## make docs/openapi.json and the pages of the API from the source
	$(BIN)/python -m docs.dev.openapi

clean:  ## remove everything that was made, .venv included
	rm -rf .venv build dist *.egg-info .cache .hypothesis .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov tests/node_modules
	find bifrost_lite tests bench -name __pycache__ -prune -exec rm -rf {} +

packages:
	@.ci/packages

$(BIN)/pip:
	$(if $(PYTHON),,$(error bifrost-lite needs Python 3.10 or newer))
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo 'On Debian: apt-get install python3-venv' >&2; exit 1; }

$(RUN_STAMP): setup.py pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(TEST_STAMP): requirements-dev.txt $(RUN_STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

tests/node_modules/.package-lock.json: tests/package-lock.json
	npm --prefix tests ci --no-audit --no-fund
