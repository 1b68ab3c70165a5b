#!/usr/bin/env bash
# Runs the unit tests of the lower rooms under Miri, which finds undefined behaviour: reads of what is not there, references that
# overlap, races. Miri interprets: no intrinsics, no assembly, no kernels, so it sees the plain paths, on small sizes (`cfg(miri)`).
#
#   scripts/miri.sh [FILTER...]     tests whose names contain one of these; without any, those of the rooms below
#
# It needs the nightly toolchain with the components miri and rust-src. Where they cannot be had it says SKIPPED and succeeds, unless
# MIRI_REQUIRED=1 is set.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "SKIPPED: $1"
    [ "${MIRI_REQUIRED:-0}" != 1 ]
    exit
}

command -v rustup > /dev/null || skip "Miri needs rustup, and this machine has none"
rustc +nightly --version > /dev/null 2>&1 || rustup toolchain install nightly --profile minimal ||
    skip "the nightly toolchain cannot be had"
cargo +nightly miri --version > /dev/null 2>&1 || rustup component add --toolchain nightly miri rust-src ||
    skip "the nightly toolchain here has no Miri"

# Unit tests by room. What multiplies matrices through the gemm crate asks the CPU for its caches, which Miri cannot; nothing here
# does.
filters=("$@")
[ ${#filters[@]} -gt 0 ] || filters=(
    error:: math:: random:: parallel::
    device::pool:: tensor:: tape::
    ops::lanes:: ops::element:: ops::documents::
    decode::cpu::pool:: decode::cpu::product::
)

# The threads of rayon live to the end of the process, and rayon's queues follow the newer of Miri's two models of references. The
# standard library's exp, sin and so on are the truth of some tests, so they must not have the errors that Miri would add.
export MIRIFLAGS="${MIRIFLAGS:--Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-tree-borrows -Zmiri-deterministic-floats}"
export RAYON_NUM_THREADS="${RAYON_NUM_THREADS:-2}"
exec cargo +nightly miri test --lib -- "${filters[@]}"
