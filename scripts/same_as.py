#!/usr/bin/env python3
"""Says whether two programs do the same: for changes of the code that must change nothing.

usage: scripts/same_as.py OLD NEW        OLD, NEW: paths of two `taper` binaries, for one from `git worktree` of another commit

Each trains the same small runs in folders of its own (GPT-2's shape with dropout, Llama's, adapters on conversations, bf16,
two processes, a run that stops and resumes), NEW also finishes what OLD has begun, and both answer the same commands. Compared
byte for byte: every file of the run but timings (report/ and cards hold times; in events and environment.json the fields that
do), standard output of --json commands, exit codes and the words of errors. Needs no other package than Python's own.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TIMES = {"step_ms", "tokens_per_s", "mfu", "elapsed_s", "time", "seconds", "busy_ms", "slowest", "slowest_ms", "fastest_ms"}
WORDS = "the lamp burns low and night is long but day will come".split()
TEXT = " ".join(WORDS[i * i % 12] for i in range(1200))
CHAT = "".join(
    json.dumps({"messages": [{"role": "user", "content": f"say {w}"}, {"role": "assistant", "content": f"{w}."}]}) + "\n"
    for w in WORDS * 4
)
CONFIG = """
[run]
name = "tiny"
seed = 5
[model]
n_layer = 2
n_head = 2
n_embd = 32
context_length = 32
dropout = 0.1
[tokenizer]
kind = "bytes"
[data]
text = ["text.txt"]
val_fraction = 0.1
[train]
micro_batch = 2
global_batch = 8
max_steps = 20
log_every = 5
[optimizer]
lr = 1e-2
[schedule]
warmup_steps = 4
[eval]
every = 10
[checkpoint]
every = 10
[sample]
every = 20
prompt = ["the"]
max_new_tokens = 8
"""
LLAMA = ["model.norm=rmsnorm", "model.position=rope", "model.mlp=swiglu", "model.bias=false", "model.n_kv_head=1",
         "model.tie_embeddings=false", "model.context_length=128", "stability.clip_norm=0.5"]
RUNS = {
    "gpt2": [],
    "llama": LLAMA,
    "post": ["model.norm_position=post", "model.mlp=relu2", "model.position=none", "train.recompute=true"],
    "bf16": ["precision.compute=bf16", "optimizer.weight_decay=0.5"],
    "trained-tokenizer": ["tokenizer.kind=train", "tokenizer.vocab_size=300", "schedule.kind=wsd"],
    "unsafe-rate": ["optimizer.lr=1e30", "stability.max_consecutive_skips=3"],
}


def run(program, folder, *words, expect=None):
    env = {**os.environ, "RAYON_NUM_THREADS": "2", "NO_COLOR": "1"}
    done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    if expect is not None and done.returncode != expect:
        sys.exit(f"{program} {' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return done


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def content(path):
    """A file as it must be the same: without times, and without what names the program."""
    name = path.name
    if name == "events.jsonl":
        return "\n".join(json.dumps(without_times(json.loads(line))) for line in path.read_text().splitlines())
    if name == "environment.json":
        environment = json.loads(path.read_text())
        return json.dumps({key: value for key, value in environment.items() if key != "binary_xxh3"})
    if name in ("README.md", "card.json"):
        # A card tells how long training took, and when.
        return re.sub(r"[0-9][0-9.,:]*", "N", path.read_text())
    # An adapter names the folder of what it corrects.
    return re.sub(rb"[^\"]*/(old|new)/runs/", b"runs/", path.read_bytes())


def files(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and inside.parts[0] != "report" and path.name not in (".lock", ".prepare.json"):
            found[str(inside)] = content(path)
    return found


class Comparison:
    def __init__(self):
        self.compared, self.different = 0, []

    def same(self, what, old, new):
        self.compared += 1
        if old != new:
            self.different.append(what)
            print(f"DIFFERENT: {what}")
            if isinstance(old, str) and isinstance(new, str):
                print(f"  old: {old[:2000]}\n  new: {new[:2000]}")

    def folders(self, what, old, new):
        old, new = files(old), files(new)
        self.same(f"{what}: names of files", "\n".join(old), "\n".join(new))
        for name in old.keys() & new.keys():
            self.same(f"{what}: {name}", old[name], new[name])


def without_digits(text):
    """Words of the terminal: speeds and times are another each time."""
    return re.sub(r"[0-9][0-9.,]*[kKM]?( ?(ms|s|min|h|tok/s))?", "N", re.sub(r"\S*tmp\S*", "PATH", text))


def commands(programs, folder, checks):
    run_of = "runs/gpt2"
    asked = [
        ["model", "info", run_of, "--json"],
        ["model", "info", "runs/llama", "--json"],
        ["eval", run_of, "--data", "text.txt", "--json"],
        ["sample", run_of, "--prompt", "the lamp", "--max-new-tokens", "12", "--seed", "3", "--json"],
        ["sample", "runs/llama", "--prompt", "the", "--max-new-tokens", "12", "--temperature", "0", "--dtype", "bf16", "--json"],
        ["sample", run_of, "--prompt", "the", "--max-new-tokens", "5", "--engine", "reference", "--temperature", "0", "--json"],
        ["plan", "tiny.toml", "--json"],
        ["tokenizer", "encode", "text.txt", "--tokenizer", "gpt2", "--json"],
        ["data", "inspect", "runs/gpt2/data/tokens"],
        ["train", "tiny.toml", "--set", "train.micro_btch=2"],
        ["train", "tiny.toml", "--set", "model.n_head=5", "--run", "runs/none"],
        ["train", "tiny.toml", "--run", "runs/gpt2"],
        ["sample", "runs/nothing"],
        ["sample", run_of, "--dtype", "tf32", "--device", "cpu"],
        ["push", run_of, "me/x", "--dry-run"],
    ]
    for words in asked:
        old, new = (run(program, folder / side, *words) for side, program in programs.items())
        name = "taper " + " ".join(words)
        checks.same(f"{name}: exit code", str(old.returncode), str(new.returncode))
        if "--json" in words:
            checks.same(f"{name}: standard output", old.stdout, new.stdout)
        checks.same(f"{name}: words", without_digits(old.stdout + old.stderr), without_digits(new.stdout + new.stderr))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    programs = {side: str(Path(path).resolve()) for side, path in zip(("old", "new"), sys.argv[1:])}
    checks = Comparison()
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        for side, program in programs.items():
            folder = place / side
            folder.mkdir()
            (folder / "text.txt").write_text(TEXT)
            (folder / "chat.jsonl").write_text(CHAT)
            (folder / "tiny.toml").write_text(CONFIG)
            for name, keys in RUNS.items():
                more = [word for key in keys for word in ("--set", key)]
                expected = 1 if name == "unsafe-rate" else 0
                run(program, folder, "train", "tiny.toml", "--run", f"runs/{name}", *more, expect=expected)
            # As a new user would continue: adapters on conversations, several processes.
            lora = ["data.text=[\"chat.jsonl\"]", "data.format=chat", "data.val_fraction=0", "lora.rank=2", "model.dropout=0.1",
                    "model.init_from=runs/llama/checkpoints/step-00000020", "tokenizer.kind=file", "sample.every=0",
                    "tokenizer.path=runs/llama/checkpoints/step-00000020"]
            shape = re.sub(r"\[model\].*?\[tokenizer\]\nkind = \"bytes\"\n", "", CONFIG, flags=re.S)
            (folder / "lora.toml").write_text(shape)
            more = [word for key in lora for word in ("--set", key)]
            run(program, folder, "train", "lora.toml", "--run", "runs/lora", *more, expect=0)
            for processes, more in (("2", []), ("2", ["--set", "dist.shard_optimizer=true"])):
                name = f"runs/ranks{len(more)}"
                run(program, folder, "train", "tiny.toml", "--processes", processes, "--run", name, *more, expect=0)
            # Half of a run, by the old program on both sides; each finishes its own.
            half = ["train", "tiny.toml", "--run", "runs/half", "--set", "train.max_steps=10"]
            run(programs["old"], folder, *half, expect=0)
            run(program, folder, "train", "tiny.toml", "--run", "runs/half", "--resume", expect=0)
        for name in [*RUNS, "lora", "ranks0", "ranks2", "half"]:
            checks.folders(f"runs/{name}", place / "old/runs" / name, place / "new/runs" / name)
        commands(programs, place, checks)
    print(f"{checks.compared} comparisons, {len(checks.different)} different")
    sys.exit(bool(checks.different))


if __name__ == "__main__":
    main()
