#!/usr/bin/env python3
"""Times the generation of text by taper, llama.cpp and transformers on the CPU, alternately, and prints the ratios.

A machine drifts from minute to minute, so each round runs every program once, each in a process of its own, and only ratios
within a round are compared; what counts is their median. All run the same model (by default random weights of GPT-2's 124M
shape: the time does not depend on them), one sequence: the prefill of a prompt of 512 tokens, then single tokens after a
short one, each timed by itself, of which the median counts. Programs are compared at equal precision of the weights:

  fp32   taper --dtype fp32   llama.cpp F32    transformers float32
  fp16   taper --dtype fp16   llama.cpp F16
  bf16   taper --dtype bf16                    transformers bfloat16
  q8_0   taper --dtype q8_0   llama.cpp Q8_0

Run:  cargo build --release
      python scripts/bench_decode.py --taper target/release/taper --rounds 3 --threads 2
      python scripts/bench_decode.py --llama-python other-venv/bin/python     if llama-cpp-python is installed elsewhere

Needs llama-cpp-python and torch with transformers; what is missing is left out, and named. Close everything else first.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PRECISIONS = ["fp32", "fp16", "bf16", "q8_0"]
LLAMA = {"fp32": "f32", "fp16": "f16", "q8_0": "q8_0"}
TORCH = {"fp32": "float32", "bf16": "bfloat16"}
BEFORE = 16


def llama(path, threads, prompt, tokens):
    """Prefill and single tokens by llama.cpp's own batch interface: the logits stay where it computed them."""
    import llama_cpp
    model = llama_cpp.Llama(str(path), n_ctx=1024, n_batch=max(prompt, 1), n_ubatch=max(prompt, 1), n_threads=threads,
                            n_threads_batch=threads, verbose=False, logits_all=False)
    ids = [(i * 977 + 13) % 50257 for i in range(prompt)]
    prefill, single = [], []
    for _ in range(2):
        model.reset()
        began = time.perf_counter()
        model.eval(ids)
        prefill.append(time.perf_counter() - began)
    model.reset()
    model.eval(ids[:BEFORE])
    for step in range(tokens):
        began = time.perf_counter()
        model.eval([step * 31 % 50257])
        single.append(time.perf_counter() - began)
    return {"prefill": prompt / min(prefill), "decode": 1 / statistics.median(single)}


def transformers(folder, dtype, threads, prompt, tokens):
    """Prefill by one forward pass; single tokens by `generate`, the difference of a long and a short call."""
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    model.generation_config.pad_token_id = 0
    ids = torch.tensor([[(i * 977 + 13) % 50257 for i in range(prompt)]])
    prefill = []
    with torch.inference_mode():
        for _ in range(2):
            began = time.perf_counter()
            model(ids, use_cache=True, logits_to_keep=1)
            prefill.append(time.perf_counter() - began)

        def generate(count):
            began = time.perf_counter()
            model.generate(ids[:, :BEFORE], do_sample=False, min_new_tokens=count, max_new_tokens=count)
            return time.perf_counter() - began
        generate(4)
        seconds = generate(tokens + 4) - generate(4)
    return {"prefill": prompt / min(prefill), "decode": tokens / seconds}


def child(arguments, python):
    """One measurement in a process of its own."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(arguments["threads"]))
    command = [python, __file__, "--child", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        # Wheels that were built for instructions which the machine has not end by a signal; the others continue.
        lines = done.stderr.strip().splitlines()
        print(f"{arguments['engine']} failed with {done.returncode}: {lines[-1] if lines else ''}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def has(python, module):
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def taper(args, precision):
    command = [args.taper, "bench", "sample", "--shape", "124m", "--dtype", precision, "--batch", "1", "--rounds", "2",
               "--prompt", str(args.prompt), "--tokens", str(args.tokens), "--threads", str(args.threads), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    result = found["results"][0]
    return {"prefill": result["prefill_tokens_per_s"], "decode": result["decode"][0]["tokens_per_s"],
            "read": found["read_gb_per_s"], "share": result["decode"][0]["share"]}


def prepare(args, folder):
    """The model as each program wants it; random weights unless a folder is given."""
    model = args.model
    if model is None:
        model = folder / "model"
        config = Path(__file__).resolve().parent.parent / "configs" / "gpt2_124m.toml"
        subprocess.run([args.taper, "model", "init", config, "--out", model], check=True, capture_output=True)
    for kind in LLAMA.values():
        command = [args.taper, "model", "export", model, "--format", "gguf", "--dtype", kind, "--out", folder / f"{kind}.gguf"]
        subprocess.run(command, check=True, capture_output=True)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--taper", default="target/release/taper")
    parser.add_argument("--model", help="a folder of GPT-2's 124M shape instead of random weights")
    parser.add_argument("--llama-python", default=sys.executable, help="the Python that has llama-cpp-python")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        job = json.loads(args.child)
        common = (job["threads"], job["prompt"], job["tokens"])
        if job["engine"] == "llama.cpp":
            found = llama(job["path"], *common)
        else:
            found = transformers(job["path"], job["dtype"], *common)
        print(json.dumps(found))
        return
    with_llama = has(args.llama_python, "llama_cpp")
    with_torch = importlib.util.find_spec("transformers") is not None and importlib.util.find_spec("torch") is not None
    for name, there in [("llama-cpp-python", with_llama), ("transformers", with_torch)]:
        if not there:
            print(f"left out: {name} is not installed", file=sys.stderr)
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = prepare(args, folder)
        common = {"threads": args.threads, "prompt": args.prompt, "tokens": args.tokens}
        for round_number in range(args.rounds):
            for precision in args.precision:
                found = {"taper": taper(args, precision)}
                if with_llama and precision in LLAMA:
                    job = dict(common, engine="llama.cpp", path=str(folder / f"{LLAMA[precision]}.gguf"))
                    found["llama.cpp"] = child(job, args.llama_python)
                if with_torch and precision in TORCH:
                    job = dict(common, engine="transformers", path=str(model), dtype=TORCH[precision])
                    found["transformers"] = child(job, sys.executable)
                found = {engine: rates for engine, rates in found.items() if rates is not None}
                for engine, rates in found.items():
                    runs.setdefault(precision, {}).setdefault(engine, []).append(rates)
                text = "; ".join(f"{e} {r['decode']:.1f} and {r['prefill']:.0f}" for e, r in found.items())
                print(f"round {round_number + 1} {precision}: tokens/s of one token and of the prompt: {text}", file=sys.stderr)
    if args.json:
        print(json.dumps(runs))
        return
    print("| weights | program | decode, tokens/s | prefill, tokens/s | taper / program, decode | prefill |")
    print("|---|---|---|---|---|---|")
    for precision, engines in runs.items():
        for engine, rates in engines.items():
            def median(what):
                return statistics.median(rate[what] for rate in rates)

            def ratio(what):
                # An engine that failed in a round is compared in the rounds it has.
                return statistics.median(ours[what] / rate[what] for ours, rate in zip(engines["taper"], rates, strict=False))
            beside = "| | |" if engine == "taper" else f"| {ratio('decode'):.2f} | {ratio('prefill'):.2f} |"
            print(f"| {precision} | {engine} | {median('decode'):.1f} | {median('prefill'):.0f} {beside}")


if __name__ == "__main__":
    main()
