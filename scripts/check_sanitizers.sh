#!/usr/bin/env bash
# Runs the emulated CUDA kernels under the C++ compiler's sanitizers: address (every plain access, and the red zones around
# every allocation and shared array), undefined, and thread (each CUDA thread is a fiber, and only barriers order memory, so
# a race between CUDA threads is a data race). Needs g++ with libasan, libubsan and libtsan. Slower than the tests by a
# factor of three to ten; for developers and nightly runs.
#
# usage: scripts/check_sanitizers.sh [KIND...]        KIND: address, undefined, thread; all three by default
#        TESTS names the test binaries (default: "emulator cuda"); FILTER limits their tests.
set -euo pipefail
cd "$(dirname "$0")/.."

kinds=("$@")
[ ${#kinds[@]} -gt 0 ] || kinds=(address undefined thread)
CXX=${CXX:-g++}
for kind in "${kinds[@]}"; do
  case $kind in
    address | undefined | thread) ;;
    *) echo "there is no sanitizer $kind: address, undefined or thread"; exit 2 ;;
  esac
done

targets=()
for test in ${TESTS:-emulator cuda}; do targets+=(--test "$test"); done
# The binaries are started without cargo, or the preloaded sanitizer would watch the build as well.
mapfile -t binaries < <(cargo test --release --no-run "${targets[@]}" --message-format=json |
  grep -F '"kind":["test"]' | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
[ ${#binaries[@]} -gt 0 ] || { echo "no test binary was built"; exit 1; }

failed=0
for kind in "${kinds[@]}"; do
  preload=
  case $kind in
    address) preload=$("$CXX" -print-file-name=libasan.so) ;;
    thread) preload=$("$CXX" -print-file-name=libtsan.so) ;;
  esac
  for binary in "${binaries[@]}"; do
    printf '\n== %s sanitizer, %s (%s s)\n' "$kind" "$(basename "$binary")" "$SECONDS"
    # Rust's own allocations are none of these sanitizers' business, and neither are its threads.
    env ${preload:+LD_PRELOAD="$preload"} TAPER_EMULATOR_SANITIZE="$kind" \
      ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=ignore_noninstrumented_modules=1 UBSAN_OPTIONS=print_stacktrace=1 \
      "$binary" ${FILTER:-} || failed=1
  done
done
[ $failed -eq 0 ] && echo "no sanitizer has anything to say" || { echo "a sanitizer found something"; exit 1; }
