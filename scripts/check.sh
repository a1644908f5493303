#!/usr/bin/env bash
# Checks format, lints, documentation and the invariants of the crates. Run it before a commit.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly server=crates/duck-flight-server/src

broken=0

# Fails when code in a Rust file under $3... matches the pattern $2 and the file's path does not match $1.
only_in() {
    local allowed=$1 pattern=$2 hits place
    shift 2
    for place in "$@"; do
        # In what is not there nothing would ever be found.
        if [[ ! -d $place ]]; then
            echo "check: there is no $place" >&2
            broken=1
        fi
    done
    hits=$(grep -rnE --include='*.rs' "$pattern" "$@" |
        grep -vE "^[^:]*/($allowed)\.rs:" |
        grep -vE '^[^:]+:[0-9]+: *//' || true)
    if [[ -n "$hits" ]]; then
        printf 'check: only %s may have this:\n%s\n' "$allowed" "$hits" >&2
        broken=1
    fi
}

check_invariants() {
    only_in 'engine(/.*)?|error' '\b(duckdb|libduckdb_sys)::|use (duckdb|libduckdb_sys)\b' "$server"
    only_in 'flight(/.*)?|server(/.*)?|error(/.*)?' '\btonic\b' "$server"
    only_in 'engine/ffi(/.*)?' '\bunsafe\b' crates tests
    # Everything a clone needs is in the clone.
    if grep -rnsE '[.][.]/shared' README.md CHANGELOG.md Cargo.toml .ci bench crates docs scripts tests; then
        echo "check: the lines above name a directory outside the repository" >&2
        broken=1
    fi
    return "$broken"
}

check_invariants
cargo fmt --all --check
cargo clippy --quiet --profile testing --workspace --all-targets -- -D warnings
RUSTDOCFLAGS=-Dwarnings cargo doc --quiet --profile testing --no-deps --workspace
echo "check: ok"
