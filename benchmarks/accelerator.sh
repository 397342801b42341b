#!/bin/sh
# What nasir does on one accelerator, measured in at most eight minutes, from a checkout that need not be installed:
#
#     benchmarks/accelerator.sh --out FILE [--stages a,b] [--budget SECONDS] [--retry]
#
# Every figure is printed and added to FILE (JSON lines) as soon as it is there; a second call with the same FILE goes on
# with the stages that have no result yet. PYTHON names the interpreter. More: benchmarks/accelerator.sh --help
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-$(command -v python3 || command -v python)}
# -P: nothing is imported from where the call happens to be made
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -P -m benchmarks.accelerator "$@"
