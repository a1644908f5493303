#!/usr/bin/env bash
# Builds everything and runs every test, from a fresh clone or not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh --python
# The binaries first: the Python tests run them.
cargo build --release --workspace --bins
scripts/check.sh
cargo test --release --workspace
.venv/bin/python -m pytest tests/clients
.venv/bin/python -m pytest bench
echo "test: ok"
