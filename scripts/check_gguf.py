#!/usr/bin/env python3
"""Holds an exported GGUF file against taper: llama.cpp loads it, splits texts into the same ids, and continues with the same tokens.

    taper model export MODEL --format gguf --out model.gguf
    python scripts/check_gguf.py model.gguf MODEL [--taper target/release/taper] [--new 40] [--prompt TEXT]...

Needs llama.cpp by its Python package (`pip install llama-cpp-python`, which builds it from source). For each prompt the ids
must be equal, and the greedy tokens up to the model's context; where a token differs, the lead of llama.cpp's choice over
taper's is shown: llama.cpp looks GELU up in a float16 table and keeps keys and values in float16 unless told otherwise
(here: float32), so logits differ by about 1e-3. Then the loss over a text, window by window as `taper eval` cuts it: small
models repeat themselves, and a wrong rotation of queries might pass unseen among repetitions. Prints one JSON object; fails
if ids differ, tokens differ by more than --tie, or the losses by more than --loss-tolerance.
"""

import argparse
import json
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np

PROMPTS = [
    "pub fn ", "The ", "    let x = 12345;\n\n\n", "it's they'll WE'RE", "naïve café, 中文 and 🙂 emoji", "\t\tif (a<b) {",
    "   three blanks", "1 22 333 4444", "snake_case_name and CamelCase", "\n",
]


def taper(binary, *args, stdin=None):
    run = subprocess.run([binary, *args], capture_output=True, text=True, input=stdin)
    if run.returncode:
        sys.exit(f"{' '.join(args)}: {run.stderr}")
    return json.loads(run.stdout)


def loss_by(llama, ids, context, vocabulary):
    """Mean cross-entropy over consecutive windows of `context` inputs."""
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, context):
        window = ids[start:start + context + 1]
        llama.reset()
        for token, target in zip(window, window[1:]):
            llama.eval([token])
            x = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), shape=(vocabulary,)).astype(np.float64)
            total += np.log(np.exp(x - x.max()).sum()) + x.max() - x[target]
            count += 1
    return float(total / count)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf")
    parser.add_argument("model", help="the model folder (a checkpoint, not a run)")
    parser.add_argument("--taper", default="target/release/taper")
    parser.add_argument("--new", type=int, default=40)
    parser.add_argument("--prompt", action="append")
    parser.add_argument("--tie", type=float, default=0.0, help="a lead up to this in logits is a tie, not an error")
    parser.add_argument("--text", default=__file__, help="the text of the loss [default: this script]")
    parser.add_argument("--loss-tolerance", type=float, default=1e-4)
    args = parser.parse_args()

    llama = llama_cpp.Llama(
        args.gguf, n_ctx=0, logits_all=False, verbose=False, n_threads=1,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False)
    context, vocabulary = llama.n_ctx(), llama.n_vocab()
    # llama.cpp rounds the context up; the model's own length is in the metadata.
    arch = llama.metadata["general.architecture"]
    context = min(context, int(llama.metadata[f"{arch}.context_length"]))
    eos = llama.token_eos()
    rows, failures, seen = [], 0, set()
    for prompt in args.prompt or PROMPTS:
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write(prompt)
            file.flush()
            ours = taper(args.taper, "tokenizer", "encode", file.name, "--tokenizer", args.model, "--json")["ids"]
        theirs = llama.tokenize(prompt.encode(), add_bos=False, special=False)
        row = {"prompt": prompt, "ids": len(ours), "ids_equal": ours == theirs}
        text = llama.detokenize(theirs).decode(errors="replace")
        row["text_back"] = text == prompt
        new = min(args.new, context - len(ours))
        sample = taper(args.taper, "sample", args.model, "--prompt", prompt, "--temperature", "0", "--max-new-tokens",
                       str(new), "--device", "cpu", "--json")["samples"][0]
        expected = sample["tokens"] + ([eos] if sample["finish_reason"] == "eos" else [])
        seen.update(expected)
        llama.reset()
        llama.eval(ours)
        lead = 0.0
        for at, token in enumerate(expected):
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), shape=(vocabulary,))
            best = int(np.argmax(logits))
            if best != token:
                gap = float(logits[best] - logits[token])
                row.setdefault("differs_at", at)
                lead = max(lead, gap)
            if at + 1 < len(expected):
                llama.eval([token])
        row["tokens"], row["largest_gap"] = len(expected), lead
        failures += not row["ids_equal"] or lead > args.tie
        rows.append(row)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(open(args.text, encoding="utf-8").read()[:4000])
        file.flush()
        ids = taper(args.taper, "tokenizer", "encode", file.name, "--tokenizer", args.model, "--json")["ids"]
        loss = taper(args.taper, "eval", args.model, "--data", file.name, "--device", "cpu", "--json")["loss"]
    theirs = loss_by(llama, ids, context, vocabulary)
    failures += int(abs(loss - theirs) > args.loss_tolerance)
    info = {key: llama.metadata.get(key) for key in ("general.architecture", "general.file_type", "tokenizer.ggml.pre")}
    print(json.dumps({
        "llama_cpp_python": llama_cpp.__version__, **info, "prompts": len(rows), "failures": failures,
        "greedy_tokens": sum(row["tokens"] for row in rows),
        "distinct_tokens": len(seen),
        "prompts_with_a_difference": sum("differs_at" in row for row in rows),
        "loss": loss, "loss_of_llama_cpp": theirs, "loss_tokens": len(ids),
        "largest_gap": max(row["largest_gap"] for row in rows),
        "rows": [row for row in rows if not row["ids_equal"] or "differs_at" in row or not row["text_back"]],
    }, ensure_ascii=False, indent=1))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
