#!/usr/bin/env bash
# Kills the server again and again while loaders of every kind write, and checks that nothing acknowledged is lost or
# there twice. Usage: scripts/crash.sh [--kills N] [--seed S]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

while (($# > 0)); do
    case $1 in
    --kills) export DUCK_CRASH_KILLS=${2:?--kills needs a number} ;;
    --seed) export DUCK_CRASH_SEED=${2:?--seed needs a number} ;;
    *)
        echo "usage: scripts/crash.sh [--kills N] [--seed S]" >&2
        exit 2
        ;;
    esac
    shift 2
done

# The same packages for both, so that what they share is built once.
cargo build --quiet --profile testing -p duck-tests -p duck-flight-server --bins
exec cargo test --quiet --profile testing -p duck-tests -p duck-flight-server --test crash -- \
    --exact --nocapture kill::what_was_acknowledged_survives_every_kill_once
