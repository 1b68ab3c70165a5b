#!/usr/bin/env python3
"""Loads a model folder in transformers and measures its loss: the outside check of what taper writes.

    python scripts/check_folder.py runs/quickstart/checkpoints/step-00000500 --text some.txt
    taper eval runs/quickstart/checkpoints/step-00000500 --data some.txt --json      # should say the same

The folder is loaded with AutoModelForCausalLM and AutoTokenizer, offline and with no code of ours. As in `taper eval`, the
token stream is cut into consecutive windows of the model's context, each predicting its next tokens, the shorter last one
included: N tokens make N - 1 predictions, and the loss is their mean in nats. One JSON object is printed.

--ids takes a JSON file with token ids (a list, or an object with "ids", as `taper tokenizer encode --json` prints) in
place of a text; the tokenizer is then not needed. --logits writes the logits of the first window, a JSON list of rows.

Needs torch and transformers.
"""

import argparse
import json
import math
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer


def read_tokens(args):
    """Token ids and, for a text, its length in bytes."""
    if args.ids:
        with open(args.ids, encoding="utf-8") as file:
            ids = json.load(file)
        return (ids["ids"] if isinstance(ids, dict) else ids), None
    with open(args.text, encoding="utf-8", newline="") as file:
        text = file.read()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    # A GPT-2 folder without tokenizer files loads an empty tokenizer, and says nothing.
    if text and not ids:
        sys.exit(f"{args.folder}: the tokenizer gives no tokens at all; are its files there?")
    if tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
        print("warning: decoding the tokens does not give the text back", file=sys.stderr)
    return ids, len(text.encode("utf-8"))


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="a UTF-8 text to measure")
    source.add_argument("--ids", help="a JSON file of token ids to measure")
    parser.add_argument("--logits", help="where to write the first window's logits")
    parser.add_argument("--max-tokens", type=int, help="measure only the first so many tokens")
    args = parser.parse_args()

    ids, size = read_tokens(args)
    if args.max_tokens and len(ids) > args.max_tokens:
        ids, size = ids[: args.max_tokens], None
    model, info = AutoModelForCausalLM.from_pretrained(args.folder, output_loading_info=True)
    troubles = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    model.eval()
    context = model.config.max_position_embeddings
    total, predictions = 0.0, 0
    for start in range(0, len(ids) - 1, context):
        window = torch.tensor(ids[start : start + context + 1])
        logits = model(window[None, :-1], use_cache=False).logits[0]
        if start == 0 and args.logits:
            with open(args.logits, "w", encoding="utf-8") as file:
                json.dump(logits.tolist(), file)
        total += F.cross_entropy(logits.double(), window[1:], reduction="sum").item()
        predictions += len(window) - 1
    if predictions == 0:
        sys.exit("fewer than two tokens: nothing to predict")
    loss = total / predictions
    print(json.dumps({
        "architecture": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "bits_per_byte": total / math.log(2) / size if size else None,
        "tokens": len(ids),
        "predictions": predictions,
        "loading_problems": troubles,
    }))
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
