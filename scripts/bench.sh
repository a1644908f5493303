#!/usr/bin/env bash
# Measures the release build beside the seed's Python server and DuckDB's own limits, on this machine, and
# prints the ratios. See scripts/bench.sh --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh --python
cargo build --quiet --release --workspace --bins
exec .venv/bin/python bench/run.py "$@"
