#!/usr/bin/env bash
# Builds everything and runs every test, from a fresh clone or not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh --python
# All at once, the binaries that the Python tests run included: built by themselves they would have their dependencies
# with fewer features than the tests, and those would be built twice.
cargo build --profile testing --workspace --bins --tests
scripts/check.sh
cargo test --profile testing --workspace
# Each worker has servers of its own, and mostly waits for them.
.venv/bin/python -m pytest -n 3 --dist loadfile tests/clients
.venv/bin/python -m pytest bench
echo "test: ok"
