"""Makes tests/fixtures/tokenizer/*.json: ids of GPT-2's tokenizer by tiktoken, and a BPE vocabulary by a slow, plain trainer.

Neither shares code with taper. Run:  python scripts/make_tokenizer_fixtures.py ../shared/data/gpt2
The folder holds GPT-2's published vocab.json and merges.txt. Needs tiktoken and regex (which tiktoken brings along).
"""

import json
import pathlib
import sys
from collections import Counter

import regex
import tiktoken

PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
END = "<|endoftext|>"
OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "tokenizer"

TEXTS = [
    "", " ", "  ", "\n", "hello world", "Hello, World!", "The quick brown fox jumps over the lazy dog.",
    "I'll say it's what they've done, don't we'd I'm you're 's 'S THEY'LL", "a  b   c    d", "tabs\t\tand\r\nlines\n\n\n end ",
    "for (int i = 0; i < n; i++) {\n    x[i] += 1.5e-3;\n}\n", "0 00 000 1234567890 3.14159 1,000,000",
    "naïve café Ångström Straße ΑΒΓ ελληνικά", "日本語のテキスト、中文文本。한국어", "Привет, мир! Як справи?",
    "שלום עולם مرحبا بالعالم", "😀 👩‍🚀 🇩🇪 e\u0301 \u200b zero\u00a0width\u3000ideographic", "Ⅷ ½ ² ٣ 〇",
    "antidisestablishmentarianism supercalifragilisticexpialidocious", "a" * 100, " " * 100 + "x", "=" * 70 + "\n" + "-" * 130,
    "hello <|endoftext|>", "<|endoftext|>", "one<|endoftext|>two<|endoftext|><|endoftext|>\n<|endoftext", "\x00\x01\x7f",
    "https://example.org/path?query=1&b=%20#frag", "She sells sea shells; the shells she sells are sea-shells, I'm sure.\n" * 2,
]

CORPUS = (
    "low lower lowest newer newest wider widest\n"
    "She sells sea shells by the sea shore; the shells she sells are sea shells, I'm sure.\n"
    "aaaa aaa aa a aaaaa abab ababab bcbc bcb\n"
    "zz yy zz yy zy zy yz yz\n"
    "Größe größer am größten: übergroß, Übermut, über 1000 Übungen in 1000 Stunden\n"
    "мама мыла раму, мама мыла Милу\n"
    "for (i = 0; i < 10; i++) {\n    a[i] = a[i] + 1;\n    b[i] = b[i] + 1;\n}\n"
)


def byte_alphabet():
    """GPT-2's bytes_to_unicode, from its description: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def gpt2(folder):
    char_to_byte = {c: b for b, c in byte_alphabet().items()}
    vocab = json.loads((folder / "vocab.json").read_text())
    ranks = {bytes(char_to_byte[c] for c in token): i for token, i in vocab.items() if token != END}
    encoding = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END: vocab[END]})
    cases = []
    for text in TEXTS:
        ids = encoding.encode_ordinary(text)
        assert encoding.decode(ids) == text
        cases.append({"text": text, "special": False, "ids": ids})
        if END in text:
            cases.append({"text": text, "special": True, "ids": encoding.encode(text, allowed_special="all")})
    return {"made_by": "tiktoken", "cases": cases}


def join(parts, left, right):
    joined, i = [], 0
    while i < len(parts):
        if parts[i:i + 2] == [left, right]:
            joined.append(left + right)
            i += 2
        else:
            joined.append(parts[i])
            i += 1
    return joined


def train(text, merges_wanted):
    """Counts every pair anew for every merge; ties go to the greater (left, right) pair of byte strings."""
    words = Counter(regex.findall(PATTERN, text))
    parts = {w: [bytes([b]) for b in w.encode()] for w in words}
    merges = []
    while len(merges) < merges_wanted:
        counts = Counter()
        for word, n in words.items():
            for pair in zip(parts[word], parts[word][1:]):
                counts[pair] += n
        count, pair = max((n, pair) for pair, n in counts.items())
        if count < 2:
            break
        merges.append(pair)
        parts = {w: join(p, *pair) for w, p in parts.items()}
    return merges


def encode(text, merges, ids):
    out = []
    for word in regex.findall(PATTERN, text):
        parts = [bytes([b]) for b in word.encode()]
        for pair in merges:
            parts = join(parts, *pair)
        out += [ids[p] for p in parts]
    return out


def trained():
    merges = train(CORPUS, 120)
    alphabet = byte_alphabet()
    byte_order = sorted(range(256), key=lambda b: alphabet[b])
    tokens = [bytes([b]) for b in byte_order] + [left + right for left, right in merges]
    ids = {token: i for i, token in enumerate(tokens)}
    assert len(ids) == len(tokens)
    texts = [CORPUS, "the lowest shells, größer 1000!", "aaaaaaa zzyy мамы\n\n  b[i]"]
    return {
        "made_by": "a plain trainer in scripts/make_tokenizer_fixtures.py",
        "corpus": CORPUS,
        "merges": [[left.hex(), right.hex()] for left, right in merges],
        "cases": [{"text": t, "ids": encode(t, merges, ids)} for t in texts],
    }


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    made = {"gpt2_ids.json": gpt2(pathlib.Path(sys.argv[1])), "trained_bpe.json": trained()}
    for name, content in made.items():
        (OUT / name).write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")


main()
