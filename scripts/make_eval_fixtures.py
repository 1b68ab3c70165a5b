#!/usr/bin/env python3
"""Writes tests/fixtures/eval/: what transformers and PyTorch say about made-up benchmarks of each kind.

  config.json, model.safetensors,   a tiny GPT-2 that was trained for a moment on some of the passages, so that it is right
  tokenizer.json                    now and then; and a small byte-level BPE
  hellaswag.jsonl, lambada.jsonl,   20 made-up examples each; some contexts are longer than the model's, and one example
  multiple-choice.jsonl             of multiple choice has a choice that is longer still
  expected.json                     log-probabilities, tokens and greedy flags of each continuation, and the scores

The rules are those of EleutherAI's lm-evaluation-harness: context and continuation are tokenized together and parted after
the context's own tokens; of a text that is too long the last context_length + 1 tokens are kept. Each continuation is
computed alone, in float64, without padding.

Run:  python scripts/make_eval_fixtures.py                       (needs torch, transformers, tokenizers; deterministic)
      python scripts/make_eval_fixtures.py --score MODEL TASK FILE DETAILS
The second form compares with what `taper eval MODEL --task TASK --data FILE --details DETAILS` wrote, for any model folder
that transformers loads (in float32).
"""

import json
import math
import random
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

OUT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "eval"
CONTEXT, VOCAB, EXAMPLES = 40, 320, 20

PEOPLE = ["The miller", "A sailor", "My aunt", "The clerk", "An old smith", "The baker's boy", "Élodie"]
DEEDS = ["opens the door", "carries a lamp", "counts the coins", "mends the net", "rings the bell", "waters the garden"]
PLACES = ["in the harbour", "behind the church", "under the bridge", "at the market", "on the hill"]
ENDS = ["and walks home.", "and sings.", "before the rain comes, as on every evening of that long autumn.", "then sleeps.",
        "until nobody is left.", "and waits for the ferry to return.", "and laughs at the cold wind.", "with both hands."]


def sentence(r):
    return f"{r.choice(PEOPLE)} {r.choice(DEEDS)} {r.choice(PLACES)}"


def make_examples(r):
    hellaswag, lambada, choice = [], [], []
    for i in range(EXAMPLES):
        context = ". ".join(sentence(r) for _ in range(1 + 3 * (i % 5 == 4))) + (" " if i == 7 else "")
        hellaswag.append({"ind": i, "activity_label": "made up", "ctx": context, "label": r.randrange(4),
                          "endings": r.sample(ENDS, 4)})
        passage = sentence(r) + ", and again: " + sentence(r) if i % 6 == 5 else sentence(r)
        lambada.append({"text": passage + ("\n" if i == 3 else "")})
        count = 2 + i % 3
        choices = [f"{r.choice(DEEDS)} {r.choice(PLACES)}" for _ in range(count)]
        if i == 11:
            choices[0] = " ".join(r.choice(DEEDS) for _ in range(20))
        answer = r.randrange(count)
        example = {"context" if i % 2 else "question": f"Question: what does {r.choice(PEOPLE)} do?\nAnswer:" if i else "",
                   "choices": choices, "answer": "ABCD"[answer] if i % 4 == 1 else answer}
        choice.append(example)
    return {"hellaswag": hellaswag, "lambada": lambada, "multiple-choice": choice}


def parts(task, example):
    """Context, continuations with the text that lengths are measured by, and the right one."""
    if task == "lambada":
        context, word = example["text"].rstrip().rsplit(" ", 1)
        return context, [(" " + word, word)], 0
    if task == "hellaswag":
        return example["ctx"], [(" " + e, e) for e in example["endings"]], int(example["label"])
    context = example["context"] if "context" in example else example["question"]
    answer = example["answer"]
    answer = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(answer) if isinstance(answer, str) and answer.isupper() else int(answer)
    return context, [(" " + c, c) for c in example["choices"]], answer


def encode_pair(tokenizer, eot, context, continuation):
    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    if context == "":
        return [eot], encode(continuation)
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    before, whole = encode(context), encode(context + continuation)
    return whole[:len(before)], whole[len(before):]


@torch.no_grad()
def score_one(model, length, before, after):
    """Log-probability and whether greedy; None if the continuation alone is too long."""
    tokens = (before + after)[-(length + 1):]
    if len(after) >= len(tokens):
        return None
    logits = model(torch.tensor([tokens[:-1]]), use_cache=False).logits[0, -len(after):]
    logs = F.log_softmax(logits.double(), -1)
    target = torch.tensor(after)
    return logs[torch.arange(len(after)), target].sum().item(), bool((logits.argmax(-1) == target).all())


def score(model, tokenizer, eot, task, examples):
    length = model.config.max_position_embeddings
    found, skipped, cut = [], 0, 0
    for number, example in enumerate(examples):
        context, continuations, answer = parts(task, example)
        pairs = [encode_pair(tokenizer, eot, context, text) for text, _ in continuations]
        scores = [score_one(model, length, *pair) for pair in pairs]
        if None in scores:
            skipped += 1
            continue
        cut += any(len(before) + len(after) > length + 1 for before, after in pairs)
        found.append({
            "line": number + 1, "answer": answer, "log_probabilities": [s[0] for s in scores],
            "greedy": [s[1] for s in scores], "tokens": [len(after) for _, after in pairs],
            "bytes": [len(text.encode()) for _, text in continuations]})
    return {"examples": found, "skipped": skipped, "contexts_cut": cut, "metrics": metrics(task, found)}


def metrics(task, found):
    n = len(found)

    def share(values):
        p = sum(values) / n
        return {"value": p, "standard_error": math.sqrt(p * (1 - p) / (n - 1))}

    if task == "lambada":
        logs = torch.tensor([e["log_probabilities"][0] for e in found], dtype=torch.float64)
        value = math.exp(-logs.mean())
        error = logs.std(correction=1).item() / math.sqrt(n)
        return {"acc": share([e["greedy"][0] for e in found]), "perplexity": {"value": value, "standard_error": value * error}}

    def right(example, weights):
        values = [log / weight for log, weight in zip(example["log_probabilities"], weights)]
        return values.index(max(values)) == example["answer"]

    return {"acc": share([right(e, [1] * len(e["tokens"])) for e in found]),
            "acc_norm": share([right(e, e["bytes"]) for e in found]),
            "acc_norm_tokens": share([right(e, e["tokens"]) for e in found])}


def train(model, tokenizer, texts):
    """A moment of AdamW on whole passages: enough to know some of their last words."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = [tokenizer.encode(text.rstrip()).ids[:CONTEXT] for text in texts]
    for _ in range(60):
        optimizer.zero_grad()
        loss = sum(model(torch.tensor([x]), labels=torch.tensor([x])).loss for x in ids) / len(ids)
        loss.backward()
        optimizer.step()
    return loss.item()


def make():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    torch.manual_seed(42)
    OUT.mkdir(parents=True, exist_ok=True)
    examples = make_examples(random.Random(7))
    texts = [sentence(random.Random(i)) + " " + e for i, e in enumerate(ENDS * 8)]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=VOCAB, min_frequency=1, special_tokens=["<|endoftext|>"])
    trained.save(str(OUT / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(OUT / "tokenizer.json"))
    eot = tokenizer.token_to_id("<|endoftext|>")
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=CONTEXT, n_embd=24, n_layer=1, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=eot, eos_token_id=eot, initializer_range=0.1))
    loss = train(model, tokenizer, [e["text"] for e in examples["lambada"][:12]])
    model.eval().save_pretrained(OUT)
    (OUT / "generation_config.json").unlink(missing_ok=True)
    model = model.double()
    expected = {}
    for task, lines in examples.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (OUT / f"{task}.jsonl").write_text(text)
        expected[task] = score(model, tokenizer, eot, task, lines)
        for e in expected[task]["examples"]:
            if task != "lambada":
                logs = sorted(e["log_probabilities"], reverse=True)
                assert logs[0] - logs[1] > 1e-3, "a choice depends on rounding"
        print(task, {k: v for k, v in expected[task].items() if k != "examples"})
    lines = ",\n".join(
        f' {json.dumps(task)}: {{"skipped": {e["skipped"]}, "contexts_cut": {e["contexts_cut"]},\n'
        f'  "metrics": {json.dumps(e["metrics"])},\n  "examples": [\n   '
        + ",\n   ".join(json.dumps(x) for x in e["examples"]) + "]}" for task, e in expected.items())
    (OUT / "expected.json").write_text("{\n" + lines + "\n}\n")
    for file in OUT.iterdir():
        file.chmod(0o644)
    print(f"loss {loss:.3f}, {sum(f.stat().st_size for f in OUT.iterdir())} bytes in {OUT}")


def compare(folder, task, path, details):
    theirs = [json.loads(line) for line in Path(details).read_text().splitlines()]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    examples = [json.loads(line) for line in Path(path).read_text().splitlines()][:theirs[-1]["line"]]
    own = score(model, tokenizer, tokenizer.token_to_id("<|endoftext|>"), task, examples)
    assert len(own["examples"]) == len(theirs), (len(own["examples"]), len(theirs))
    worst = 0.0
    for a, b in zip(own["examples"], theirs):
        assert all(a[key] == b[key] for key in ["line", "answer", "tokens", "bytes", "greedy"]), (a, b)
        worst = max(worst, *(abs(x - y) for x, y in zip(a["log_probabilities"], b["log_probabilities"])))
    print(json.dumps({key: value for key, value in own.items() if key != "examples"}, indent=1))
    print(f"{len(theirs)} examples; log-probabilities differ by at most {worst:.1e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--score"]:
        compare(*sys.argv[2:])
    else:
        make()
