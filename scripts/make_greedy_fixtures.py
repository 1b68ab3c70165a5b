#!/usr/bin/env python3
"""Writes tests/fixtures/NAME/greedy.json: what transformers generates greedily from 50 prompts with each tiny model.

Each file is {"prompts": [[ids]], "continuations": [[20 ids]], "margin": smallest lead of a chosen token's logit over the
next one}. Prompts have 1 to 4 ids, so that with 20 more the context of 24 is just filled. End-of-text does not stop a text
here: the tiny models' id 0 is as good as any.

A margin near zero would make a token depend on rounding; prompts whose texts have one below 1e-3 are passed over.

Run:  python scripts/make_greedy_fixtures.py     (needs torch, transformers; after make_fixtures.py; deterministic)
"""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
NAMES = ["gpt2_tiny", "gpt2_erf_untied", "llama_tiny", "llama_tied_bias"]
PROMPTS, NEW, MARGIN = 50, 20, 1e-3


def main():
    for index, name in enumerate(NAMES):
        model = AutoModelForCausalLM.from_pretrained(FIXTURES / name, dtype=torch.float32).eval()
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        generator = torch.Generator().manual_seed(1000 + index)
        prompts, continuations, smallest = [], [], float("inf")
        while len(prompts) < PROMPTS:
            length = 1 + len(prompts) % 4
            prompt = torch.randint(model.config.vocab_size, (1, length), generator=generator)
            out = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=NEW,
                return_dict_in_generate=True, output_logits=True)
            best = torch.stack(out.logits)[:, 0].topk(2).values
            margin = (best[:, 0] - best[:, 1]).min().item()
            new = out.sequences[0, length:].tolist()
            assert len(new) == NEW
            if margin < MARGIN or prompt[0].tolist() in prompts:
                continue
            smallest = min(smallest, margin)
            prompts.append(prompt[0].tolist())
            continuations.append(new)
        path = FIXTURES / name / "greedy.json"
        lines = ",\n".join(f'    {json.dumps(ids)}' for ids in prompts)
        new = ",\n".join(f'    {json.dumps(ids)}' for ids in continuations)
        path.write_text(
            f'{{\n  "margin": {smallest:.6f},\n  "prompts": [\n{lines}\n  ],\n  "continuations": [\n{new}\n  ]\n}}\n')
        distinct = len({tuple(c) for c in continuations})
        print(f"{name}: smallest margin {smallest:.4f}, {distinct} distinct continuations")


if __name__ == "__main__":
    main()
