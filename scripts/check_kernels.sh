#!/usr/bin/env bash
# What can be said about the CUDA kernels without a GPU: every kernels/*.cu is compiled for sm_80 and sm_90 with warnings
# denied, and its machine code is looked at. Nothing is installed; nvcc comes from $NVCC or PATH, cuobjdump from
# $CUOBJDUMP, from nvcc's folder, or PATH.
#
# usage: scripts/check_kernels.sh [FILE.cu...]        ARCHS="80 90" is the default
#
# A file declares in its header what its kernels must keep, the last matching line counting:
#   // gate: PATTERN registers=N wide mma stack=BYTES spills=BYTES
# PATTERN is a shell-like pattern of kernel names; `wide` demands 128-bit loads or stores of global memory, `mma` tensor-core
# instructions. Without a line: at most 255 registers. Spills and stack are 0 unless a line says otherwise: they are local
# memory, which is traffic that no kernel's header counts.
set -euo pipefail
cd "$(dirname "$0")/.."

NVCC=${NVCC:-$(command -v nvcc || true)}
[ -n "$NVCC" ] || { echo "nvcc was not found: set NVCC or PATH (the wheels nvidia-cuda-nvcc and its parts have it)"; exit 2; }
CUOBJDUMP=${CUOBJDUMP:-$(dirname "$NVCC")/cuobjdump}
[ -x "$CUOBJDUMP" ] || CUOBJDUMP=$(command -v cuobjdump || true)
[ -n "$CUOBJDUMP" ] || { echo "cuobjdump was not found: set CUOBJDUMP (the wheel nvidia-cuda-cuobjdump has it)"; exit 2; }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
files=("$@")
[ ${#files[@]} -gt 0 ] || files=(kernels/*.cu)

"$NVCC" --version | tail -1
printf '%-44s %5s %5s %6s %6s %7s %7s %7s %6s\n' kernel arch regs stack spills LDG.128 STG.128 global HMMA
# One file for one architecture; what it prints comes in one piece.
check_one() {
  local file=$1 arch=$2 name here
  name=$(basename "$file" .cu)
  here=$out/$name.$arch
  if ! "$NVCC" -std=c++17 -I kernels -gencode="arch=compute_$arch,code=sm_$arch" -Werror all-warnings -cubin \
      -Xptxas -v -o "$here.cubin" "$file" >"$here.log" 2>&1; then
    { grep -vE '^ptxas info|^ +[0-9]+ bytes stack' "$here.log" || true
      echo "FAILED: $file does not compile for sm_$arch"; } >"$here.table"
    touch "$out/failed"
  else
    "$CUOBJDUMP" -sass "$here.cubin" >"$here.sass"
    awk -v arch="$arch" '
      function glob(pattern) { gsub(/\./, "\\.", pattern); gsub(/\*/, ".*", pattern); return "^(" pattern ")$" }
      FILENAME == ARGV[1] && /^\/\/ gate: / {
        n_gates++
        pattern[n_gates] = glob($3)
        for (i = 4; i <= NF; i++) {
          split($i, part, "=")
          gate[n_gates, part[1]] = part[2] == "" ? 1 : part[2]
        }
      }
      FILENAME == ARGV[2] && /Compiling entry function/ { split($0, quoted, "\x27"); kernel = quoted[2]; names[++n] = kernel }
      FILENAME == ARGV[2] && /bytes stack frame/ { stack[kernel] = $1; spills[kernel] = $5 + $9 }
      FILENAME == ARGV[2] && /Used [0-9]+ registers/ { for (i = 1; i < NF; i++) if ($i == "Used") registers[kernel] = $(i + 1) }
      FILENAME == ARGV[3] && /Function : / { kernel = $NF }
      FILENAME == ARGV[3] && /^ +\/\*[0-9a-f]+\*\// {
        if (/ LDG\.[^ ]*128/) wide_loads[kernel]++
        if (/ STG\.[^ ]*128/) wide_stores[kernel]++
        if (/ (LDG|STG)[. ]/) all[kernel]++
        if (/ HMMA/) mma[kernel]++
        if (/ (LDL|STL)[. ]/) local[kernel]++
      }
      END {
        if (n == 0) { print "FAILED: no kernel found"; exit 1 }
        for (k = 1; k <= n; k++) {
          kernel = names[k]
          which = 0
          for (g = 1; g <= n_gates; g++) if (kernel ~ pattern[g]) which = g
          limit = gate[which, "registers"] == "" ? 255 : gate[which, "registers"]
          why = ""
          if (registers[kernel] > limit) why = why " more than " limit " registers;"
          if (stack[kernel] > gate[which, "stack"] + 0) why = why " a stack frame that is not declared;"
          if (spills[kernel] > gate[which, "spills"] + 0) why = why " spills that are not declared;"
          if (local[kernel] > 0 && gate[which, "stack"] + 0 == 0) why = why " local memory that is not declared;"
          if (gate[which, "wide"] && wide_loads[kernel] + wide_stores[kernel] == 0) why = why " no 128-bit access;"
          if (gate[which, "mma"] && mma[kernel] + 0 == 0) why = why " no tensor-core instruction;"
          printf "%-44s %5s %5d %6d %6d %7d %7d %7d %6d%s\n", kernel, "sm_" arch, registers[kernel], stack[kernel],
            spills[kernel], wide_loads[kernel], wide_stores[kernel], all[kernel], mma[kernel], why == "" ? "" : "  FAILED:" why
          if (why != "") bad = 1
        }
        exit bad
      }' "$file" "$here.log" "$here.sass" >"$here.table" || touch "$out/failed"
  fi
  cat "$here.table"
}
export -f check_one
export NVCC CUOBJDUMP out
for arch in ${ARCHS:-80 90}; do
  for file in "${files[@]}"; do printf '%s %s\n' "$file" "$arch"; done
done | xargs -P "$(nproc)" -L 1 bash -c 'check_one "$0" "$1"'

if [ -e "$out/failed" ]; then
  echo "some kernels do not keep their gates"
  exit 1
fi
echo "all kernels keep their gates"
