#!/usr/bin/env bash
# GPT-2 on one or several machines without a scheduler: torchrun starts one process for each GPU and starts them again when one
# is lost.
#
#   scripts/torchrun.sh configs/gpt2_124m.toml                                       # 8 GPUs of this machine
#   NODES=2 MASTER=node0:29500 scripts/torchrun.sh configs/gpt2_350m.toml            # the same line on both machines
#
# Recipe (configs/gpt2_124m.toml)
#   hardware   8 A100 of 80 GB; on one machine `taper train CONFIG --gpus 8` does the same without Python
#   tokens     10.0 billion: 19,073 steps of 524,288
#   hours      taper plan configs/gpt2_124m.toml --gpus 8 --gpu a100-80
#   loss       3.28 on FineWeb's validation shard, as the config says
#   price      hours x nodes x the price of a node in an hour
#
# More than 8 processes need no dist.lanes: a new run gets as many lanes as processes.
#
# Needs Python with torch, for torchrun alone. The run folder lies on a file system that all machines share. The `--` keeps
# torchrun from reading options of taper as its own.
set -euo pipefail
config=${1:-configs/gpt2_124m.toml}
shift || true
exec torchrun --no-python --nproc-per-node "${GPUS:-8}" --nnodes "${NODES:-1}" --max-restarts "${RESTARTS:-3}" \
  --rdzv-backend c10d --rdzv-endpoint "${MASTER:-localhost:29500}" --rdzv-id "${RUN_ID:-taper}" \
  -- "${TAPER:-taper}" train "$config" --resume "$@"
