#!/usr/bin/env python3
"""Times training steps of the same GPT in PyTorch and in taper, alternately, and prints the ratios.

A machine drifts by 10 to 20% from minute to minute, so absolute numbers of two programs measured one after the other say
little. Here each round runs taper, then PyTorch, each in a process of its own (so that peak memory is that of one of them
alone), and the ratio of a round compares neighbours in time. What counts is the median of the rounds' ratios.

Both sides do the same work: the shape of `taper bench step --shape NAME`, random tokens, forward, backward,
clipping to a global norm of 1, AdamW with decay on tensors of two or more dimensions. The PyTorch side is its strongest
ordinary form: packed query-key-value projection, scaled_dot_product_attention, fused AdamW; `--mode compile` adds
torch.compile, `--mode bf16` autocast to bfloat16, and `--mode compile-bf16` both. The modes in bf16 are compared with taper's
bf16, the others are float32 on both sides.

Run:  cargo build --release
      python scripts/bench_torch.py --taper target/release/taper --shape 10m --rounds 3
      python scripts/bench_torch.py --taper target/release/taper --shape 124m --mode compile --threads 2

On a GPU both sides run several steps between two looks at the clock, and memory is that of tensors on the GPU:
      python scripts/bench_torch.py --device cuda --shape 124m --batch 16 --mode compile-bf16

Needs torch. Close everything else on the machine first.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

# layers, heads, channels, context, batch, vocabulary: as in src/cli/bench/args.rs
SHAPES = {
    "10m": (6, 6, 384, 256, 8, 65),
    "10m-v50257": (6, 6, 384, 256, 8, 50257),
    "124m": (12, 12, 768, 1024, 1, 50257),
}
MODES = ("eager", "compile", "bf16", "compile-bf16")
# Steps between two looks at the clock on a GPU, which works on several at once; as taper has it.
TOGETHER = 4


def build(shape):
    import torch
    from torch import nn
    from torch.nn import functional as F

    layers, heads, channels, context, _, vocabulary = SHAPES[shape]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_1 = nn.LayerNorm(channels)
            self.qkv = nn.Linear(channels, 3 * channels)
            self.proj = nn.Linear(channels, channels)
            self.norm_2 = nn.LayerNorm(channels)
            self.up = nn.Linear(channels, 4 * channels)
            self.down = nn.Linear(4 * channels, channels)

        def forward(self, x):
            b, t, c = x.shape
            q, k, v = (
                part.view(b, t, heads, c // heads).transpose(1, 2) for part in self.qkv(self.norm_1(x)).split(c, 2)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
            return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(vocabulary, channels)
            self.wpe = nn.Embedding(context, channels)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.norm_f = nn.LayerNorm(channels)
            for parameter in self.parameters():
                if parameter.ndim >= 2:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, tokens, targets):
            x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.norm_f(x), self.wte.weight)
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return Gpt()


def measure_torch(shape, mode, steps, threads, device, batch):
    """One process's measurement, printed as JSON."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(threads)
    _, _, _, context, own_batch, vocabulary = SHAPES[shape]
    batch = batch or own_batch
    model = build(shape).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    run = torch.compile(model) if mode.startswith("compile") else model
    ids = torch.randint(vocabulary, (batch * context + 1,), device=device)
    tokens, targets = ids[:-1].view(batch, context), ids[1:].view(batch, context)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=mode.endswith("bf16")):
            loss = run(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    def timed():
        together = TOGETHER if device == "cuda" else 1
        began = time.perf_counter()
        for _ in range(together):
            loss = step()
        loss.item()
        return (time.perf_counter() - began) / together

    for _ in range(2):
        timed()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(timed() for _ in range(steps))
    if device == "cuda":
        peak_mib = torch.cuda.max_memory_allocated() / 2**20
    else:
        # Kilobytes on Linux.
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {"tokens_per_s": batch * context / seconds, "step_ms": 1e3 * seconds, "peak_resident_mib": peak_mib}
    print(json.dumps({**result, "parameters": parameters}))


def output(command, threads):
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taper", default="target/release/taper", help="the binary")
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=["10m"])
    parser.add_argument("--mode", choices=MODES, nargs="+", default=["eager"], help="how PyTorch runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=7, help="timed steps in each measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="sequences of a micro-batch, instead of the shape's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only-torch", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only_torch:
        return measure_torch(args.shape[0], args.mode[0], args.steps, args.threads, args.device, args.batch)

    results = []
    for shape in args.shape:
        for mode in args.mode:
            rounds = []
            for _ in range(args.rounds):
                steps = ["--steps", str(args.steps), "--device", args.device]
                if args.batch:
                    steps += ["--batch", str(args.batch)]
                precision = ["--precision", "bf16" if mode.endswith("bf16") else "fp32"]
                taper = [args.taper, "bench", "step", "--shape", shape, "--json", *steps, *precision]
                ours = output(taper, args.threads)
                own = [sys.executable, __file__, "--only-torch", "--shape", shape, "--mode", mode]
                torch = output([*own, *steps, "--threads", str(args.threads)], args.threads)
                if ours["parameters"] != torch["parameters"]:
                    sys.exit(f"{shape}: {ours['parameters']} parameters here, {torch['parameters']} in PyTorch")
                rounds.append((ours, torch))
                print(
                    f"{shape} {mode}: taper {ours['tokens_per_s']:.0f}, PyTorch {torch['tokens_per_s']:.0f} tokens/s,"
                    f" ratio {ours['tokens_per_s'] / torch['tokens_per_s']:.2f}",
                    file=sys.stderr,
                )
            column = lambda side, key: [pair[side][key] for pair in rounds]
            results.append({
                "shape": shape,
                "mode": mode,
                "taper_tokens_per_s": statistics.median(column(0, "tokens_per_s")),
                "torch_tokens_per_s": statistics.median(column(1, "tokens_per_s")),
                "ratio": statistics.median(a["tokens_per_s"] / b["tokens_per_s"] for a, b in rounds),
                "taper_peak_mib": max(column(0, "peak_pool_mib" if args.device == "cuda" else "peak_resident_mib")),
                "torch_peak_mib": max(column(1, "peak_resident_mib")),
            })
    if args.json:
        return print(json.dumps({"threads": args.threads, "rounds": args.rounds, "results": results}))
    print("| shape | PyTorch | taper tokens/s | PyTorch tokens/s | ratio | taper MiB | PyTorch MiB |")
    print("|---|---|---|---|---|---|---|")
    for r in results:
        print(
            f"| {r['shape']} | {r['mode']} | {r['taper_tokens_per_s']:.0f} | {r['torch_tokens_per_s']:.0f} "
            f"| {r['ratio']:.2f} | {r['taper_peak_mib']:.0f} | {r['torch_peak_mib']:.0f} |"
        )


if __name__ == "__main__":
    main()
