#!/usr/bin/env bash
# Measures the release build beside other servers and DuckDB's own limits, on this machine, and prints the
# ratios. See scripts/bench.sh --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The contenders that only the benchmark needs. Making .venv anew removes the stamp with the rest.
get_contenders() {
    local requirements=bench/requirements.txt stamp=.venv/bench-requirements.txt
    if cmp --silent "$requirements" "$stamp"; then
        return
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" || {
        echo "bench: pip could not install $requirements (see above)" >&2
        exit 1
    }
    cp "$requirements" "$stamp"
}

scripts/setup.sh --python
get_contenders
cargo build --quiet --release --workspace --bins
exec .venv/bin/python bench/run.py "$@"
