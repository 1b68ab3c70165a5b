"""Measures taper's tokenizer next to tiktoken, Hugging Face tokenizers and, where it is installed, rustbpe; alternately.

Build first:  cargo build --release && cargo bench --no-run --bench tokenizer
Then, say:    python scripts/bench_tokenizers.py ../shared/data/gutenberg '/usr/lib/python3/**/*.py' --megabytes 100

The texts (files, folders, globs; .gz too) are joined into one file, at most --megabytes of it. Then, in each round, every program
does the same work in a process of its own:

- encode: GPT-2 ids of the whole text on one thread, from a string in memory to the ids in memory. tokenizers takes it line
  by line and only the first --crate-megabytes of it, for its work grows faster than the text; tiktoken's and taper's ids are compared.
- train: a byte-level BPE vocabulary of --vocab-size on the whole text, --threads threads. For taper the time is that of the whole
  process, start, reading and writing included; for the others that of the call which trains.

Printed: megabytes (10^6) a second, or seconds, of each program, and the ratio of each round; the median last. Only ratios of one
run count. Needs tiktoken, tokenizers and numpy.
"""

import argparse
import glob
import gzip
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
END = "<|endoftext|>"


def gather(inputs, limit, out):
    """Joins the texts, up to `limit` bytes, cut where a character ends; files that are not UTF-8 are left out."""
    files = []
    for name in inputs:
        path = pathlib.Path(name)
        found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else sorted(glob.glob(name, recursive=True))
        files += found or sys.exit(f"{name}: there is no such file")
    size = used = 0
    for file in map(str, files):
        if size >= limit:
            break
        data = (gzip.open if file.endswith(".gz") else open)(file, "rb").read()
        try:
            data.decode()
        except UnicodeDecodeError:
            continue
        data = data[: limit - size]
        data = data.decode(errors="ignore").encode()
        out.write(data)
        size, used = size + len(data), used + 1
    out.flush()
    print(f"text: {size:,} bytes of {used} files")


def vocabulary(folder):
    """The ids of tiktoken's byte strings, from the tokenizer.json that taper writes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    byte = {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(rest)}}
    vocab = json.loads((pathlib.Path(folder) / "tokenizer.json").read_text())["model"]["vocab"]
    return {bytes(byte[c] for c in token): i for token, i in vocab.items() if token != END}


def child_tiktoken(args):
    import numpy
    import tiktoken

    encoding = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=vocabulary(args.gpt2), special_tokens={END: 50256})
    text = open(args.text, encoding="utf-8", newline="").read()
    start = time.perf_counter()
    ids = encoding.encode_ordinary(text)
    seconds = time.perf_counter() - start
    ids = numpy.array(ids, dtype=numpy.uint64)
    check = int(((ids + 1) * (numpy.arange(len(ids), dtype=numpy.uint64) + 1)).sum(dtype=numpy.uint64))
    return {"seconds": seconds, "bytes": len(text.encode()), "tokens": len(ids), "hash": f"{check:016x}"}


def child_crate(args):
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(args.gpt2) / "tokenizer.json"))
    text = open(args.text, "rb").read(args.crate_megabytes * 1_000_000).decode(errors="ignore")
    lines = text.splitlines(keepends=True)
    start = time.perf_counter()
    tokens = sum(len(encoding) for encoding in tokenizer.encode_batch_fast(lines))
    return {"seconds": time.perf_counter() - start, "bytes": len(text.encode()), "tokens": tokens}


def child_crate_train(args):
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=args.vocab_size, min_frequency=2, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    start = time.perf_counter()
    tokenizer.train([args.text], trainer)
    return {"seconds": time.perf_counter() - start}


def child_rustbpe_train(args):
    import rustbpe

    text = open(args.text, encoding="utf-8", newline="").read()
    lines = text.splitlines(keepends=True)
    start = time.perf_counter()
    rustbpe.Tokenizer().train_from_iterator(iter(lines), args.vocab_size, pattern=PATTERN)
    return {"seconds": time.perf_counter() - start}


def taper_encode(args):
    made = subprocess.run(
        ["cargo", "bench", "--quiet", "--no-run", "--bench", "tokenizer", "--message-format", "json"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )
    messages = [json.loads(line) for line in made.stdout.splitlines()]
    program = next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "tokenizer")
    env = {**os.environ, "TAPER_BENCH_TEXT": args.text, "RAYON_NUM_THREADS": "1"}
    return lambda: json.loads(subprocess.run([program], env=env, check=True, capture_output=True, text=True).stdout)


def taper_train(args):
    def run():
        out = os.path.join(args.gpt2, "trained.json")
        env = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
        command = [args.taper, "tokenizer", "train", args.text, "--vocab-size", str(args.vocab_size), "--out", out]
        start = time.perf_counter()
        subprocess.run([*command, "--ties", "ids"], env=env, check=True, capture_output=True)
        return {"seconds": time.perf_counter() - start}

    return run


def other(args, name, threads):
    def run():
        command = [sys.executable, __file__, args.text, "--child", name, "--gpt2", args.gpt2]
        command += ["--vocab-size", str(args.vocab_size), "--crate-megabytes", str(args.crate_megabytes)]
        parallel = {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"}
        made = subprocess.run(command, env={**os.environ, **parallel}, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(made.stdout)

    return run


def compare(title, programs, rounds, speed):
    """Runs the programs in turn; the first is ours. `speed` makes of a result what is better when greater."""
    print(f"\n{title}")
    ratios = {name: [] for name in list(programs)[1:]}
    for number in range(1, rounds + 1):
        results = {name: run() for name, run in programs.items()}
        shown = {name: speed(result) for name, result in results.items()}
        ours = next(iter(shown.values()))
        for name, values in ratios.items():
            values.append(ours / shown[name])
        cells = [f"{name} {result.get('bytes', 0) / result['seconds'] / 1e6:.1f} MB/s" if "bytes" in result else
                 f"{name} {result['seconds']:.2f} s" for name, result in results.items()]
        print(f"  round {number}: {', '.join(cells)}; load {os.getloadavg()[0]:.2f}", flush=True)
        known = {(r["tokens"], r["hash"]) for r in results.values() if "hash" in r}
        if len(known) > 1:
            sys.exit(f"the ids differ: {known}")
    for name, values in ratios.items():
        print(f"  against {name}: {', '.join(f'{v:.2f}' for v in values)}; median {statistics.median(values):.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+", help="files, folders or globs")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--crate-megabytes", type=int, default=10)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["encode", "train"])
    parser.add_argument("--taper", default=str(ROOT / "target" / "release" / "taper"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--gpt2", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        args.text = args.text[0]
        print(json.dumps(globals()[f"child_{args.child}"](args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        inputs, args.gpt2, args.text = args.text, folder, os.path.join(folder, "text.txt")
        with open(args.text, "wb") as out:
            gather(inputs, args.megabytes * 1_000_000, out)
        tiny = os.path.join(folder, "tiny.txt")
        pathlib.Path(tiny).write_text("A few words.")
        # Preparing anything leaves the tokenizer next to the shards.
        prepared = os.path.join(folder, "prepared")
        command = [args.taper, "data", "prepare", tiny, "--tokenizer", "gpt2", "--out", prepared]
        subprocess.run(command, check=True, capture_output=True)
        os.rename(os.path.join(prepared, "tokenizer.json"), os.path.join(folder, "tokenizer.json"))
        if args.only != "train":
            programs = {"taper": taper_encode(args), "tiktoken": other(args, "tiktoken", 1), "tokenizers": other(args, "crate", 1)}
            compare("encode GPT-2, one thread", programs, args.rounds, lambda result: result["bytes"] / result["seconds"])
        if args.only != "encode":
            programs = {"taper": taper_train(args), "tokenizers": other(args, "crate_train", args.threads)}
            if importlib.util.find_spec("rustbpe"):
                programs["rustbpe"] = other(args, "rustbpe_train", args.threads)
            title = f"train {args.vocab_size} ids, {args.threads} threads"
            compare(title, programs, args.rounds, lambda result: 1 / result["seconds"])


if __name__ == "__main__":
    main()
