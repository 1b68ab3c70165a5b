#!/usr/bin/env python3
"""Checks that an adapter folder of taper is what Python's peft expects, and computes what taper computes.

    python3 scripts/check_adapter.py ADAPTER MERGED

ADAPTER is a checkpoint of a run with lora.rank; MERGED is the model folder that

    taper model export ADAPTER --merge --format hf --out MERGED

made of it. The adapter is loaded by peft over its base, and its logits on random tokens are compared with those of MERGED:
the largest difference may be 1e-5 of the largest logit. Where the folder has a chat template, apply_chat_template must run.
"""

import json
import pathlib
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    adapter, merged = map(pathlib.Path, sys.argv[1:3])
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    torch.manual_seed(1)
    tokens = torch.randint(0, plain.config.vocab_size, (4, min(32, plain.config.max_position_embeddings)))
    with torch.no_grad():
        before = plain(tokens).logits
        theirs = PeftModel.from_pretrained(plain, adapter).eval()(tokens).logits
        ours = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()(tokens).logits
    largest, off, moved = theirs.abs().max(), (theirs - ours).abs().max(), (theirs - before).abs().max()
    print(f"largest logit {largest:.4f}, the adapter moves logits by up to {moved:.4f}, taper differs by {off:.2e}")
    if not (off < 1e-5 * largest and moved > 100 * off):
        sys.exit("the logits are not equal")
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": "Hello"}]
        print(repr(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)))


if __name__ == "__main__":
    main()
