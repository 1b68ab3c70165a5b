#!/usr/bin/env bash
# Everything that needs a GPU, in one command: the GPU tests, the benchmarks, the same shapes in PyTorch, 200 steps in each
# precision, and a table of it all. It needs no Rust: on a machine that has it, it builds; else it takes what was carried.
#
# usage: scripts/gpu.sh [OUT]          OUT: a folder for logs and JSON (default: gpu-results)
#   TAPER      the binary            (default: target/release/taper, built where cargo is there)
#   GPU_TESTS  the test binary       (default: built from tests/cuda where cargo is there; carried as target/gpu/cuda-tests)
#   PYTHON     a Python with torch   (default: python3; without torch that part is skipped and says so)
#   TEXT       a text file to train on for the loss curves (default: this repository's own documentation)
#
# To carry: cargo build --release && scripts/gpu.sh --pack       (leaves target/gpu/{taper,cuda-tests}, stripped)
set -uo pipefail
cd "$(dirname "$0")/.."

tests_binary() {
  cargo test --release --no-run --test cuda --message-format=json 2>/dev/null |
    grep -F '"kind":["test"]' | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1
}

if [ "${1:-}" = --pack ]; then
  set -e
  cargo build --release
  mkdir -p target/gpu
  strip -o target/gpu/taper target/release/taper
  strip -o target/gpu/cuda-tests "$(tests_binary)"
  ls -l target/gpu
  exit
fi

out=${1:-gpu-results}
mkdir -p "$out"
TAPER=${TAPER:-}
GPU_TESTS=${GPU_TESTS:-}
if [ -z "$TAPER" ] && [ -x target/gpu/taper ]; then TAPER=target/gpu/taper; fi
if [ -z "$GPU_TESTS" ] && [ -x target/gpu/cuda-tests ]; then GPU_TESTS=target/gpu/cuda-tests; fi
if [ -z "$TAPER" ]; then
  cargo build --release || exit 1
  TAPER=target/release/taper
fi
if [ -z "$GPU_TESTS" ]; then GPU_TESTS=$(tests_binary); fi
PYTHON=${PYTHON:-python3}
failed=0
part() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

part "the GPU"
"$TAPER" doctor | tee "$out/doctor.txt"
"$TAPER" doctor --json >"$out/doctor.json"
if ! grep -q '"usable":true' "$out/doctor.json"; then
  echo "no GPU that taper can use: nothing was run"
  exit 1
fi
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv 2>/dev/null | tee "$out/nvidia-smi.csv"

part "tests: every operator, the step, sampling, on the emulator (where g++ is) and on this GPU"
"$GPU_TESTS" --nocapture >"$out/tests.txt" 2>&1 || failed=1
grep -E '^test |^skipped|test result' "$out/tests.txt"

part "tests that only a GPU can run: 1,000 steps without a leak, 200-step curves"
"$GPU_TESTS" --nocapture --ignored >"$out/long-tests.txt" 2>&1 || failed=1
grep -E '^test |^skipped|test result|curve|leak' "$out/long-tests.txt"

part "operators next to their ceilings"
"$TAPER" bench ops --device cuda --json >"$out/ops.json" || failed=1
"$TAPER" bench ops --device cuda | tee "$out/ops.txt"

part "training steps"
: >"$out/steps.jsonl"
for precision in bf16 fp16 tf32 fp32; do
  batch=16
  [ "$precision" = fp32 ] && batch=8
  "$TAPER" bench step --shape 124m --batch "$batch" --device cuda --precision "$precision" --steps 10 --json \
    >>"$out/steps.jsonl" || failed=1
done
"$TAPER" bench step --shape 124m --batch 16 --device cuda --precision bf16 --steps 10

part "a table of matrix products, and what it gains"
"$TAPER" bench tune --shape 124m --batch 16 --device cuda --precision bf16 --out "$out/matmul.json" | tee "$out/tune.txt" || failed=1

part "next to PyTorch"
if "$PYTHON" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  "$PYTHON" scripts/bench_torch.py --taper "$TAPER" --device cuda --shape 124m --batch 16 --mode bf16 compile-bf16 \
    --rounds 3 --steps 10 --json >"$out/torch.json" || failed=1
  cat "$out/torch.json"
else
  echo "skipped: $PYTHON has no torch with CUDA"
fi

part "a timeline (one profile)"
if command -v nsys >/dev/null 2>&1; then
  nsys profile -o "$out/step" --force-overwrite true --stats=true \
    "$TAPER" bench step --shape 124m --batch 16 --device cuda --steps 5 >"$out/nsys.txt" 2>&1 || true
  grep -A40 'cuda_gpu_kern_sum' "$out/nsys.txt" | head -45
else
  echo "skipped: nsys is not here"
fi

part "done"
[ $failed -eq 0 ] && echo "everything passed; results are in $out" || echo "SOMETHING FAILED; see $out"
exit $failed
