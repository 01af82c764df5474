#!/usr/bin/env bash
# Lint, types, tests, in the toolkit's own environment (made on the first run).
#
#   bash scripts/test.sh [--all] [pytest arguments…]
#
# --all   runs the tests marked `slow` too.
# The files of tests are divided among as many processes as there are cores, four at most; `-n 0` takes one.
# Stops at the first step that fails. The last line is pytest's summary, the exit code is pytest's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

selection=(-m "not slow")
if [[ "${1:-}" == "--all" ]]; then
    selection=()
    shift
fi

source scripts/env.sh

# The tests' models are tiny: more threads only get in each other's way.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"

echo "== lint"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check --quiet . || {
    echo "error: some files are not formatted; run: $PYTHON -m ruff format ." >&2
    exit 1
}
echo "== types"
"$PYTHON" -m mypy
echo "== tests"
workers=$(OMP_NUM_THREADS= nproc)  # which would count the threads above instead of the cores
exec "$PYTHON" -m pytest -q -n $((workers < 4 ? workers : 4)) --dist loadfile "${selection[@]}" "$@"
