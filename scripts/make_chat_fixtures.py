#!/usr/bin/env python3
"""Writes tests/fixtures/chat/expected.json: what transformers makes of the chat templates in that folder.

The file is a list of {"template", "messages", "add_generation_prompt"} with "text", or with "raises" where the template
refuses the messages. The templates are this project's own, written in the manner of those that chat models carry.

Run:  python scripts/make_chat_fixtures.py     (needs transformers with jinja2; deterministic)
"""

import json
from pathlib import Path

import jinja2
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "chat"


def turns(*contents, system=None):
    roles = ["user", "assistant"]
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system is not None else []) + messages


CONVERSATIONS = [
    turns("Hello"),
    turns("Hello", system="You are brief.\n"),
    turns("  blanks around \n", "\n an answer  ", "and a third é\U0001f642 <&> \"quoted\" it's"),
    turns("a", "b", "c", "d", "e", system="  s  "),
    turns("skip this\nsecond line", "a {{ brace }} {% tag %}", "skip"),
    turns("", ""),
    turns("tab\tbackslash \\ control \x01 \u2028", "<|im_end|>", "x" * 300),
    [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}],
    [{"role": "tool", "content": "42"}],
]


def main():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
    expected = []
    for path in sorted(FOLDER.glob("*.jinja")):
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        for messages in CONVERSATIONS:
            for prompt in [False, True]:
                case = {"template": path.name, "messages": messages, "add_generation_prompt": prompt}
                try:
                    case["text"] = tokenizer.apply_chat_template(
                        messages, tokenize=False, add_generation_prompt=prompt)
                except jinja2.exceptions.TemplateError as error:
                    case["raises"] = error.message
                expected.append(case)
    lines = ",\n".join(json.dumps(case) for case in expected)
    (FOLDER / "expected.json").write_text(f"[\n{lines}\n]\n")
    print(f"{len(expected)} cases, {sum('raises' in case for case in expected)} of them refused")


if __name__ == "__main__":
    main()
