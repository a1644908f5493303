#!/usr/bin/env bash
# Builds Duck Flight and shows it: four loaders write into one DuckDB while queries read it, and at the end
# every acknowledged row is counted. DEMO_SECONDS (default 12, at least 4) says how long they load.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly loaders=4 seconds=${DEMO_SECONDS:-12}

fail() {
    echo "demo: $*" >&2
    exit 1
}

say() {
    printf '\n== %s\n' "$*"
}

# A query each quarter of the time: the first must find the loaders' table.
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] && ((seconds >= 4)) || fail "DEMO_SECONDS is $seconds: give whole seconds, 4 or more"

scripts/setup.sh
cargo build --release --bins -p duck-flight-server -p duck-load -p duck-query

bin=${CARGO_TARGET_DIR:-target}/release
# Not in the system's temporary directory, which may be in memory.
work=$(mktemp -d "${CARGO_TARGET_DIR:-target}/demo.XXXXXX")
pids=()

clean_up() {
    if ((${#pids[@]})); then
        kill "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The server says on stdout where it listens. A pipe hands over the line as soon as it is there.
mkfifo "$work/ready"
"$bin/duck-flight-server" --database "$work/demo.db" --listen 127.0.0.1:0 >"$work/ready" 2>"$work/server.log" &
server_pid=$!
pids+=("$server_pid")
exec 3<"$work/ready"
read -r -t 30 line <&3 || fail "the server did not start: $(cat "$work/server.log")"
address=${line#listening on }
server=grpc://$address

query() {
    "$bin/duck-query" --server "$server" "$@"
}

say "duck-flight-server listens on $address; $loaders duck-load write for $seconds seconds"
loader_pids=()
for ((i = 1; i <= loaders; i++)); do
    "$bin/duck-load" --server "$server" --duration "${seconds}s" --format json \
        >"$work/loader-$i.json" 2>"$work/loader-$i.log" &
    loader_pids+=("$!")
    pids+=("$!")
done

for ((i = 1; i <= 3; i++)); do
    sleep "$((seconds / 4))"
    say "while they load, after $((i * (seconds / 4))) seconds"
    query "SELECT count(*) AS rows, count(DISTINCT batch_id) AS batches, max(timestamp) AS latest FROM concurrent_test"
done
query "SELECT category, count(*) AS rows, round(avg(value), 3) AS average FROM concurrent_test GROUP BY ALL ORDER BY ALL"

say "the loaders end"
acknowledged=0
for ((i = 1; i <= loaders; i++)); do
    wait "${loader_pids[i - 1]}" || fail "loader $i failed: $(cat "$work/loader-$i.log")"
    rows=$(sed -n 's/.*"rows": *\([0-9][0-9]*\).*/\1/p' "$work/loader-$i.json" | head -n 1)
    [[ -n "$rows" ]] || fail "loader $i reported no rows: $(cat "$work/loader-$i.json")"
    echo "loader $i: $rows rows acknowledged"
    acknowledged=$((acknowledged + rows))
done

counted=$(query --format csv "SELECT count(*) AS rows FROM concurrent_test" | tail -n 1)

kill "$server_pid"
wait "$server_pid" || fail "the server did not stop cleanly: $(cat "$work/server.log")"
pids=()

say "the server has stopped"
[[ "$acknowledged" == "$counted" ]] || fail "$acknowledged rows acknowledged, but $counted rows counted"
((counted > 0)) || fail "no rows were loaded"
echo "demo: ok, $acknowledged rows acknowledged and $counted rows counted"
