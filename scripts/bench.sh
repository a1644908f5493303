#!/usr/bin/env bash
# Measures the release build beside other servers and DuckDB's own limits, on this machine, prints the ratios, and
# makes docs/benchmarks.md. See scripts/bench.sh --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The packages that only the benchmark needs. Making .venv anew removes the stamp with the rest.
get_packages() {
    local requirements=bench/requirements.txt stamp=.venv/bench-requirements.txt
    if cmp -s "$requirements" "$stamp"; then
        return
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" || {
        echo "bench: pip could not install $requirements (see above)" >&2
        exit 1
    }
    cp "$requirements" "$stamp"
}

# PostgreSQL is left out where it is not installed, but as root on Debian it can be had.
get_postgres() {
    if compgen -G '/usr/lib/postgresql/*/bin/pgbench' >/dev/null || command -v pgbench >/dev/null; then
        return
    fi
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo "bench: PostgreSQL is not installed and is left out (Debian: apt install postgresql)" >&2
        return
    fi
    echo "bench: installing PostgreSQL, to measure beside it (apt-get install postgresql)" >&2
    # The cluster that the package starts is not used.
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends postgresql; } \
        >/dev/null || echo "bench: PostgreSQL could not be installed and is left out" >&2
}

scripts/setup.sh --python
get_packages
case " $* " in
*" --page-only "* | *" --help "* | *" -h "*) ;;
*)
    # Also says at once what is wrong with the flags.
    wants_postgres=0
    .venv/bin/python bench/run.py --wants-postgres "$@" || wants_postgres=$?
    case $wants_postgres in
    0) get_postgres ;;
    1) ;;
    *) exit "$wants_postgres" ;;
    esac
    cargo build --quiet --release --workspace --bins
    ;;
esac
exec .venv/bin/python bench/run.py "$@"
