#!/usr/bin/env bash
# Gets what a build needs: checks the tools, and puts DuckDB's official library, pinned by its checksum,
# where the build looks for it. With --python it also makes .venv, for the Python tests and the benchmark.
# Running it again does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly duckdb_version=1.5.5

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

sha256() {
    if command -v sha256sum >/dev/null; then
        sha256sum "$1" | cut -d ' ' -f 1
    else
        shasum -a 256 "$1" | cut -d ' ' -f 1
    fi
}

# Answers whether version $1 is at least version $2.
at_least() {
    [[ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" == "$2" ]]
}

check_tools() {
    local needed found
    needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    command -v cargo >/dev/null ||
        fail "cargo is missing: install Rust $needed or later (https://rustup.rs)"
    found=$(rustc --version | cut -d ' ' -f 2)
    at_least "$found" "$needed" ||
        fail "rustc $found is too old, $needed or later is needed: run 'rustup update stable'"
    command -v cc >/dev/null ||
        fail "no C linker (cc): install gcc or clang (macOS: 'xcode-select --install')"
    command -v make >/dev/null ||
        fail "make is missing: the allocator is built with it (Debian, Ubuntu: 'apt install make')"
}

# Sets package, library and checksum for the machine in $1 (a target triple).
choose_library() {
    case $1 in
    x86_64-unknown-linux-gnu)
        package=@duckdb/node-bindings-linux-x64@1.5.5-r.1 library=libduckdb.so
        checksum=fc23f12e376c47be520f75221288281906e7942e8fd6f6ce4849198ba60d0405
        ;;
    aarch64-unknown-linux-gnu)
        package=@duckdb/node-bindings-linux-arm64@1.5.5-r.5 library=libduckdb.so
        checksum=d00d007f3f7ca1f2896a5e4b89c2ce141bf0508506a9d6d56f9598b8e59d074e
        ;;
    # One library serves both kinds of Mac.
    aarch64-apple-darwin | x86_64-apple-darwin)
        package=@duckdb/node-bindings-darwin-arm64@1.5.5-r.5 library=libduckdb.dylib
        checksum=b9027d18ef3e8d960568f77e946a83ca68009cb22d71cf7f94de842afdd094d8
        ;;
    *)
        fail "no DuckDB library is pinned for $1. Either of these works instead:" \
            "  cargo build --release --features duck-flight-server/bundled   (compiles DuckDB, half an hour)" \
            "  export DUCKDB_LIB_DIR=...   (a directory with libduckdb $duckdb_version), then run this again"
        ;;
    esac
}

get_library() {
    local triple directory package library checksum found
    if [[ -n "${DUCKDB_LIB_DIR:-}" ]]; then
        echo "setup: using the DuckDB library in $DUCKDB_LIB_DIR"
        return
    fi
    triple=$(rustc -vV | sed -n 's/^host: //p')
    choose_library "$triple"
    directory=${CARGO_TARGET_DIR:-target}/duckdb-download/$triple/$duckdb_version
    if [[ -f "$directory/$library" && "$(sha256 "$directory/$library")" == "$checksum" ]]; then
        return
    fi
    command -v npm >/dev/null ||
        fail "npm is missing; it fetches DuckDB's library. Install Node.js, or do one of these instead:" \
            "  cargo build --release   (with the internet at hand, the build downloads the library itself)" \
            "  cargo build --release --features duck-flight-server/bundled   (compiles DuckDB, half an hour)" \
            "  export DUCKDB_LIB_DIR=...   (a directory with libduckdb $duckdb_version), then run this again"

    echo "setup: fetching DuckDB $duckdb_version for $triple"
    mkdir -p "$directory"
    # Beside its destination, so that the last step is an atomic rename.
    fetched=$(mktemp -d "$directory/fetch.XXXXXX")
    trap 'rm -rf "$fetched"' EXIT
    npm pack --silent --pack-destination "$fetched" "$package" >/dev/null ||
        fail "npm could not fetch $package (see above)"
    tar -xzf "$fetched"/*.tgz -C "$fetched" "package/$library"
    found=$(sha256 "$fetched/package/$library")
    [[ "$found" == "$checksum" ]] ||
        fail "$library of $package has the checksum $found, expected $checksum: not used"
    mv -f "$fetched/package/$library" "$directory/$library"
}

make_venv() {
    local requirements=tests/clients/requirements.txt stamp=.venv/requirements.sha256 python=${PYTHON:-python3}
    if [[ -f "$stamp" && "$(cat "$stamp")" == "$(sha256 "$requirements")" ]]; then
        return
    fi
    command -v "$python" >/dev/null ||
        fail "$python is missing: the Python tests and the benchmark need 3.11 or later (PYTHON names another)"
    at_least "$("$python" -c 'import platform; print(platform.python_version())')" 3.11 ||
        fail "$("$python" --version) is too old: the Python tests and the benchmark need 3.11 or later (PYTHON names another)"
    echo "setup: making .venv"
    "$python" -m venv --clear .venv ||
        fail "$python cannot make a virtual environment (Debian, Ubuntu: 'apt install python3-venv')"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" ||
        fail "pip could not install $requirements (see above)"
    sha256 "$requirements" >"$stamp"
}

case "${1:-}" in
"" | --python) ;;
*) fail "usage: scripts/setup.sh [--python]" ;;
esac
check_tools
get_library
if [[ "${1:-}" == --python ]]; then
    make_venv
fi
