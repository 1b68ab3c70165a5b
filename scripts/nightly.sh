#!/usr/bin/env bash
# Checks that are too long, or need too much, for `.ci/run`: the thread sanitizer over the emulated kernels, the features that
# the default build leaves out, Miri over the lower rooms, the official Hub client. Each prints its verdict; what it needs and
# cannot find is skipped with a line. The last results: .ci/nightly.md.
#
# usage: scripts/nightly.sh [STEP...]        STEP: tsan, features, miri, hub; all of them by default
set -uo pipefail
cd "$(dirname "$0")/.."

steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(tsan features miri hub)
failed=()
for step in "${steps[@]}"; do
  printf '\n== %s (%s s)\n' "$step" "$SECONDS"
  case $step in
    tsan) scripts/check_sanitizers.sh thread ;;
    features) cargo clippy --release --all-targets --features xet -- -D warnings && cargo test --release --features xet --test network hub::xet ;;
    miri) scripts/miri.sh ;;
    hub) scripts/hub_faithful.sh ;;
    *) echo "there is no step $step: tsan, features, miri or hub"; exit 2 ;;
  esac || failed+=("$step")
done
[ ${#failed[@]} -eq 0 ] && echo "nightly: all passed (${SECONDS} s)" || { echo "nightly: failed: ${failed[*]}"; exit 1; }
