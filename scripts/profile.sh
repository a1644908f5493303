#!/usr/bin/env bash
# Prints where the server's time goes while loaders put and while a client reads: by library, and by function.
# Usage: scripts/profile.sh [put|get|small]... [--seconds N] [--with perf|callgrind]
# It samples with perf; where that does not work, callgrind counts instructions, which is fifty times as slow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly rows=5000000 lines=25
seconds=8
profiler=
paths=()

fail() {
    echo "profile: $*" >&2
    exit 1
}

while (($# > 0)); do
    case $1 in
    put | get | small) paths+=("$1") ;;
    --seconds) seconds=${2:?--seconds needs a number} && shift ;;
    --with) profiler=${2:?--with needs perf or callgrind} && shift ;;
    *) fail "usage: scripts/profile.sh [put|get|small]... [--seconds N] [--with perf|callgrind]" ;;
    esac
    shift
done
((${#paths[@]})) || paths=(put get small)

scripts/setup.sh
cargo build --quiet --release --workspace --bins

bin=${CARGO_TARGET_DIR:-target}/release
work=$(mktemp -d "${CARGO_TARGET_DIR:-target}/profile.XXXXXX")
server_pid=

clean_up() {
    if [[ -n "$server_pid" ]]; then
        kill "$server_pid" 2>/dev/null || true
        wait "$server_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

choose_profiler() {
    if [[ -n "$profiler" ]]; then
        command -v "${profiler/callgrind/valgrind}" >/dev/null || fail "$profiler is not installed"
    elif command -v perf >/dev/null && perf record --quiet -o "$work/probe" true 2>/dev/null; then
        profiler=perf
    elif command -v valgrind >/dev/null; then
        profiler=callgrind
    else
        fail "neither perf works here (Debian: apt install linux-perf; kernel.perf_event_paranoid at most 2) nor is there valgrind"
    fi
    echo "profile: $profiler, $seconds s for each path"
}

# Starts the server on a new database in $work/$1, behind the command in the other arguments.
start_server() {
    local path=$1 ready=$work/$1.ready line
    shift
    mkdir "$work/$path"
    mkfifo "$ready"
    "$@" "$bin/duck-flight-server" --database "$work/$path/profile.db" --listen 127.0.0.1:0 \
        >"$ready" 2>"$work/$path.log" &
    server_pid=$!
    exec 3<"$ready"
    read -r -t 60 line <&3 || fail "the server did not start: $(cat "$work/$path.log")"
    server=grpc://${line#listening on }
}

stop_server() {
    kill "$server_pid"
    wait "$server_pid" || true
    server_pid=
}

# What the path $1 needs beforehand.
set_up() {
    [[ "$1" != get ]] || "$bin/duck-query" --server "$server" --format csv "CREATE TABLE readings AS
        SELECT range // 1000 AS batch_id, TIMESTAMP '2026-01-01' + to_microseconds(range) AS timestamp,
            hash(range) % 100000 / 1000 AS value, chr((65 + range % 4)::INTEGER) AS category FROM range($rows)" >/dev/null
}

# Keeps the path $1 busy for as long as asked.
drive() {
    case $1 in
    put) "$bin/duck-load" --server "$server" --writers 8 --duration "${seconds}s" --format json >/dev/null 2>&1 ;;
    get)
        local end=$((SECONDS + seconds))
        while ((SECONDS < end)); do
            "$bin/duck-bench" read --server "$server" --sql "SELECT * FROM readings" >/dev/null
        done
        ;;
    small) "$bin/duck-bench" small --server "$server" --connections 8 --seconds "$seconds" >/dev/null ;;
    esac
}

by_perf() {
    local data=$work/$1.data recorder
    start_server "$1"
    set_up "$1"
    perf record --quiet --freq 997 --pid "$server_pid" -o "$data" 2>/dev/null &
    recorder=$!
    drive "$1"
    kill -INT "$recorder"
    wait "$recorder" || true
    stop_server
    echo "by library:"
    report "$data" dso 8
    echo "by function:"
    report "$data" dso,symbol "$lines"
}

# The first $3 lines of a report sorted by $2.
report() {
    perf report --stdio --input "$1" --sort "$2" --percent-limit 0.3 2>/dev/null |
        grep -vE '^(#|$)' | cut -c 1-150 | sed 's/[[:space:]]*$//' | head -n "$3" || true
}

by_callgrind() {
    local data=$work/$1.callgrind
    start_server "$1" valgrind --quiet --tool=callgrind --instr-atstart=no --callgrind-out-file="$data"
    set_up "$1"
    callgrind_control --instr=on "$server_pid" >/dev/null
    drive "$1"
    callgrind_control --instr=off "$server_pid" >/dev/null
    stop_server
    echo "by library:"
    callgrind_annotate --threshold=99 "$data" | object_shares
    echo "by function:"
    callgrind_annotate "$data" | grep -E '^ *[0-9,]+ \(' | sed -n "2,$((lines + 1))p" | cut -c 1-150
}

# Adds up the instructions of each object, which stands in brackets at the end of a function's line.
object_shares() {
    awk '/^ *[0-9,]+ \(/ && match($0, /\[[^]]*\]$/) {
            object = substr($0, RSTART + 1, RLENGTH - 2); sub(/.*\//, "", object)
            count = $1; gsub(",", "", count); sum[object] += count; total += count
        }
        END { for (object in sum) printf "%6.2f%%  %s\n", 100 * sum[object] / total, object }' | sort -rn | head -n 8
}

choose_profiler
for path in "${paths[@]}"; do
    printf '\n== %s\n' "$path"
    "by_$profiler" "$path"
done
