#!/usr/bin/env python3
"""Talks to `taper serve` with the official openai client, and to a second server that has a chat template.

Makes two small models with `taper model init`, starts the servers on free ports, and checks completions, streams, several
texts at once, stop strings, log-probabilities, usage, errors by the client's own exception types, concurrency (async, 64
requests against 4 slots, the same texts as one by one), cancelled streams, and the end by SIGTERM.

Run:  python scripts/check_serve.py target/release/taper     (needs the openai package)
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import openai

CONFIG = """
[model]
n_layer = 2
n_head = 4
n_embd = 64
context_length = 256
[tokenizer]
kind = "gpt2"
[data]
text = ["none.txt"]
[train]
micro_batch = 2
max_steps = 1
"""
TEMPLATE = ("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>\n{% endif %}")


class Served:
    def __init__(self, taper, model, *more, **environment):
        command = [taper, "serve", str(model), "--bind", "127.0.0.1:0", "--slots", "4", "--name", "tiny", *more]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
        for line in self.process.stderr:
            if "http://" in line:
                self.address = "http://" + line.split("http://")[1].split(": ")[0]
                break
        else:
            sys.exit("the server did not start")
        self.key = environment.get("TAPER_API_KEY", "unused")
        # No retries: what the server says is what is checked.
        self.client = openai.OpenAI(base_url=self.address + "/v1", api_key=self.key, max_retries=0)

    def metric(self, name):
        request = urllib.request.Request(self.address + "/metrics", headers={"Authorization": f"Bearer {self.key}"})
        text = urllib.request.urlopen(request).read().decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=20) == 0


def expect(error, call):
    try:
        call()
    except error as caught:
        return caught
    raise AssertionError(f"expected {error.__name__}")


def completions(served):
    client = served.client
    assert [m.id for m in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    ask = dict(model="tiny", prompt="Once upon a time", max_tokens=20, seed=3)
    whole = client.completions.create(**ask, n=2, logprobs=2)
    assert [c.index for c in whole.choices] == [0, 1] and whole.choices[0].text != whole.choices[1].text
    assert whole.usage.prompt_tokens == 4 and whole.usage.completion_tokens <= 40
    first = whole.choices[0]
    assert first.finish_reason in ["length", "stop"] and len(first.logprobs.tokens) == len(first.logprobs.token_logprobs)
    assert client.completions.create(**ask).choices[0].text == first.text
    pieces = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in pieces if c.choices) == first.text
    assert pieces[-1].usage.prompt_tokens == 4
    greedy = client.completions.create(model="tiny", prompt=["a", "b"], temperature=0, max_tokens=8)
    again = client.completions.create(model="tiny", prompt=[[64], [65]], temperature=0, max_tokens=8)
    assert [c.text for c in greedy.choices] == [c.text for c in again.choices]
    stop = first.text[5:7]
    cut = client.completions.create(**ask, stop=[stop])
    assert cut.choices[0].finish_reason == "stop" and cut.choices[0].text == first.text[:first.text.find(stop)]
    echo = client.completions.create(**ask, echo=True)
    assert echo.choices[0].text == "Once upon a time" + first.text
    extra = client.completions.create(**ask, extra_body={"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.1})
    assert extra.choices[0].text
    wrong = expect(openai.BadRequestError, lambda: client.completions.create(**{**ask, "max_tokens": -1}))
    assert wrong.param == "max_tokens" and wrong.status_code == 400
    expect(openai.NotFoundError, lambda: client.completions.create(**{**ask, "model": "gpt-4"}))
    long = expect(openai.BadRequestError, lambda: client.completions.create(**{**ask, "prompt": "word " * 300}))
    assert long.code == "context_length_exceeded"
    no_chat = expect(openai.BadRequestError, lambda: client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}]))
    assert no_chat.code == "no_chat_template"


def chats(served):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    ask = dict(model="tiny", messages=messages, max_completion_tokens=12, seed=1)
    whole = served.client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
    text = whole.choices[0].message.content
    assert whole.choices[0].message.role == "assistant" and len(whole.choices[0].logprobs.content[0].top_logprobs) == 3
    pieces = list(served.client.chat.completions.create(**ask, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in pieces) == text
    raw = served.client.completions.create(
        model="tiny", prompt="<|system|>\nBe brief.\n<|user|>\nHello\n<|assistant|>\n", max_tokens=12, seed=1)
    assert raw.choices[0].text == text
    stranger = openai.OpenAI(base_url=served.address + "/v1", api_key="wrong", max_retries=0)
    expect(openai.AuthenticationError, lambda: stranger.chat.completions.create(**ask))


async def crowd(served):
    client = openai.AsyncOpenAI(base_url=served.address + "/v1", api_key=served.key, max_retries=0)

    async def one(i):
        answer = await client.completions.create(model="tiny", prompt=f"Number {i}", max_tokens=5 + i % 20, seed=i)
        return answer.choices[0].text

    async def leaver(i):
        stream = await client.completions.create(model="tiny", prompt=f"Bye {i}", max_tokens=250, seed=i, stream=True)
        async for _ in stream:
            break
        await stream.close()

    alone = [await one(i) for i in range(64)]
    together = await asyncio.gather(*(one(i) for i in range(64)), *(leaver(i) for i in range(16)))
    assert together[:64] == alone
    await client.close()


def main():
    taper = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        (Path(folder) / "model.toml").write_text(CONFIG)
        subprocess.run([taper, "model", "init", str(Path(folder) / "model.toml"), "--out", str(model)], check=True)
        base = Served(taper, model)
        completions(base)
        start = time.time()
        asyncio.run(crowd(base))
        print(f"64 texts alone and together, 16 streams left: {time.time() - start:.1f} s")
        while base.metric("taper_active_sequences") + base.metric("taper_queue_length") > 0:
            time.sleep(0.05)
        left = base.metric('taper_sequences_total{end="cancelled"}')
        base.end()
        (model / "chat_template.jinja").write_text(TEMPLATE)
        chat = Served(taper, model, TAPER_API_KEY="a-key-for-this-check")
        chats(chat)
        chat.end()
    print(f"openai {openai.__version__}: all checks passed; {left:.0f} streams were cancelled at once")


if __name__ == "__main__":
    main()
