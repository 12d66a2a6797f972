#!/usr/bin/env bash
# From nothing to a distilled student: makes .venv, installs requirements.txt, runs the main job.
#   tools/demo.sh [flags of experiments.distill]
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh requirements.txt
exec .venv/bin/python -m experiments.distill --config=configs/digits.py --workdir=runs/demo "$@"
