#!/usr/bin/env bash
# The suite: tools/test.sh [--full] [arguments of pytest]
# --full adds the long matrices, every config, and the torch tests in .venv-parity.
set -euo pipefail
cd "$(dirname "$0")/.."
full=
if [ "${1:-}" = --full ]; then
  full=--full
  shift
fi
source tools/environment.sh requirements-dev.txt
python=.venv/bin/python
$python -m ruff check .
$python -m ruff format --check .
$python -m mypy
$python -m pytest -n 2 --dist loadfile $full "$@"
if [ -n "$full" ]; then
  VENV=.venv-parity source tools/environment.sh requirements-dev.txt requirements-parity.txt
  .venv-parity/bin/python -m pytest tests/parity $full
fi
