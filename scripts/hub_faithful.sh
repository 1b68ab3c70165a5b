#!/bin/sh
# Runs the official Python client (huggingface_hub, transformers) against the test hub of tests/hub, in plain LFS mode, so
# that what our own client is tested with is known to be a hub; then ours against what Python pushed, and Python against
# what ours pushed.
#
# Needs: python with huggingface_hub and transformers (PYTHON=...). No network.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
serving=""
cleanup() {
    exec 9>&- || true
    if [ -n "$serving" ]; then wait "$serving" || true; fi
    rm -rf "$work"
}
trap cleanup EXIT
mkfifo "$work/stdin"
cargo test --release --offline --test network --no-run
cargo build --release --offline --bin taper
cargo test --release --offline --test network -- --ignored --exact --nocapture hub::serve <"$work/stdin" >"$work/log" 2>&1 &
serving=$!
exec 9>"$work/stdin"
until grep -q '^SERVING' "$work/log"; do
    kill -0 "$serving" || { cat "$work/log"; exit 1; }
    sleep 0.1
done
set -- $(grep '^SERVING' "$work/log")
env HF_ENDPOINT="$2" HF_TOKEN="$3" HF_HOME="$work/hf" HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_TELEMETRY=1 \
    TAPER="$PWD/target/release/taper" "${PYTHON:-python3}" scripts/hub_faithful.py "$work"
