# taper with everything it loads at run time on NVIDIA GPUs; it trains on the CPU where there is none.
#
#   docker build -t taper .
#   docker run --gpus all --ipc host --network host -v "$PWD/runs:/taper/runs" -v "$PWD/data:/taper/data" \
#     taper train configs/gpt2_124m.toml --gpus 8
#
# Recipe (configs/gpt2_124m.toml)
#   hardware   8 A100 of 80 GB, driver 525 or newer on the host
#   tokens     10.0 billion: 19,073 steps of 524,288
#   hours      taper plan configs/gpt2_124m.toml --gpus 8 --gpu a100-80
#   loss       3.28 on FineWeb's validation shard, as the config says
#   price      hours x the price of the machine in an hour
#
# The build needs no GPU and no CUDA; the run needs NVRTC, cuBLASLt and NCCL, which come as Python wheels (no Python is run).
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN cargo build --release

FROM debian:bookworm-slim
RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
  && python3 -m venv /opt/cuda \
  && /opt/cuda/bin/pip install --no-cache-dir nvidia-cuda-nvrtc nvidia-cublas nvidia-nccl-cu13 \
  && rm -rf /var/lib/apt/lists/*
ENV VIRTUAL_ENV=/opt/cuda PATH=/opt/cuda/bin:$PATH
COPY --from=build /build/target/release/taper /usr/local/bin/taper
COPY configs /taper/configs
WORKDIR /taper
ENTRYPOINT ["taper"]
