"""The official Python client against the test hub, and then across: what it pushed, taper pulls, and the other way.

Started by hub_faithful.sh, with HF_ENDPOINT, HF_TOKEN and HF_HOME set. Prints one line for each thing checked.
"""

import json
import os
import pathlib
import subprocess
import sys

import huggingface_hub
import torch
import transformers
from huggingface_hub import CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

work = pathlib.Path(sys.argv[1])
taper = os.environ["TAPER"]
api = HfApi()


def done(what):
    print("ok:", what, flush=True)


def raises(kind, call):
    try:
        call()
    except kind as error:
        assert type(error) is kind, type(error)
        return
    raise AssertionError(f"{kind.__name__} was expected")


def run_taper(*arguments, **more):
    env = {"PATH": os.environ["PATH"], "HOME": str(work), **{k: v for k, v in os.environ.items() if k.startswith("HF_")}}
    out = subprocess.run([taper, *arguments], env={**env, **more}, check=True, capture_output=True, text=True)
    assert os.environ["HF_TOKEN"] not in out.stdout + out.stderr
    return out.stdout


def tiny(kind):
    torch.manual_seed(1)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=300, n_positions=64, n_embd=64, n_layer=2, n_head=4,
                                         bos_token_id=0, eos_token_id=0)
        return transformers.GPT2LMHeadModel(config).eval()
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config).eval()


print("huggingface_hub", huggingface_hub.__version__, "transformers", transformers.__version__)
ids = torch.arange(24)[None] % 300
for kind in ["gpt2", "llama"]:
    # Python to hub: weights large enough to go in parts.
    model, folder, repo = tiny(kind), work / kind, f"me/{kind}"
    model.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A test\n")
    (folder / "empty.txt").write_text("")
    api.create_repo(repo, exist_ok=True, private=(kind == "llama"))
    api.create_repo(repo, exist_ok=True)
    commit = api.upload_folder(repo_id=repo, folder_path=folder)
    again = api.upload_folder(repo_id=repo, folder_path=folder)
    assert api.repo_info(repo).sha == again.oid
    done(f"upload_folder of {kind}, in {sum(f.stat().st_size for f in folder.iterdir())} bytes")

    # Hub to Python.
    snapshot = pathlib.Path(snapshot_download(repo))
    for file in folder.iterdir():
        assert (snapshot / file.name).read_bytes() == file.read_bytes(), file
    loaded = transformers.AutoModelForCausalLM.from_pretrained(repo).eval()
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    done(f"snapshot_download and from_pretrained of {kind}: the same logits")

    # Hub to taper, in the same cache and in one of its own.
    shared = json.loads(run_taper("pull", repo, "--json"))
    assert pathlib.Path(shared["folder"]) == snapshot and shared["fetched"] == 0, shared
    own = json.loads(run_taper("pull", repo, "--json", HF_HUB_CACHE=str(work / "own" / kind)))
    for name in own["files"]:
        assert (pathlib.Path(own["folder"]) / name).read_bytes() == (snapshot / name).read_bytes(), name
    offline = snapshot_download(repo, cache_dir=work / "own" / kind, allow_patterns=["*.safetensors", "config.json"],
                                local_files_only=True)
    assert offline == own["folder"], (offline, own)
    done(f"taper pull of {kind}: one cache for both, either way")

    # taper to hub, to Python; other weights, since storage has these already.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.save_pretrained(folder)
    pushed = json.loads(run_taper("push", str(folder), f"me/{kind}-by-taper", "--json"))
    assert pushed["stored"] == 1, pushed
    loaded = transformers.AutoModelForCausalLM.from_pretrained(f"me/{kind}-by-taper").eval()
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert json.loads(run_taper("push", str(folder), f"me/{kind}-by-taper", "--json"))["committed"] == []
    done(f"taper push of {kind}, loaded by from_pretrained: the same logits")

# Runs of taper: GPT-2 and Llama shapes, tied and untied, with and without biases. What is pushed loads with no code of ours.
TEXT = "All that is gold does not glitter, not all those who wander are lost. " * 60
(work / "text.txt").write_text(TEXT)
CONFIG = """
[model]
n_layer = 2
n_head = 4
n_embd = 32
context_length = 32
{shape}
[tokenizer]
kind = "train"
vocab_size = 300
[data]
text = ["{work}/text.txt"]
val_fraction = 0.2
[train]
micro_batch = 4
max_steps = 6
[schedule]
warmup_steps = 1
[eval]
every = 6
[checkpoint]
every = 6
[sample]
every = 6
prompt = ["All that "]
max_new_tokens = 8
"""
LLAMA = 'norm = "rmsnorm"\nposition = "rope"\nmlp = "swiglu"\n'
SHAPES = {
    "gpt2-tied": "",
    "gpt2-untied-no-biases": "tie_embeddings = false\nbias = false\nqkv_bias = false\n",
    "llama-tied": LLAMA + "bias = false\nqkv_bias = false\nn_kv_head = 2\n",
    "llama-untied-biases": LLAMA + "tie_embeddings = false\nbias = true\nqkv_bias = true\n",
}
for name, shape in SHAPES.items():
    config, run, repo = work / f"{name}.toml", work / "runs" / name, f"me/{name}"
    config.write_text(CONFIG.format(shape=shape, work=work))
    run_taper("train", str(config), "--device", "cpu", "--run", str(run))
    pushed = json.loads(run_taper("push", str(run), repo, "--license", "mit", "--price-per-hour", "3.5", "--json"))
    assert "report/loss.png" in pushed["committed"], pushed
    card = huggingface_hub.ModelCard.load(repo)
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert card.data.license == "mit" and card.data.pipeline_tag == "text-generation", card.data
    assert card.data.model_name == name and set(metrics) == {"loss", "perplexity"}, metrics
    for part in ["95% interval", "| time |", "| cost |", "| energy, estimated |", "(<report/loss.png>)", "## Samples"]:
        assert part in card.text, (part, card.text)
    model = transformers.AutoModelForCausalLM.from_pretrained(repo).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(repo)
    (work / "eval.txt").write_text(TEXT[:90])
    tokens = tokenizer(TEXT[:90], add_special_tokens=False, return_tensors="pt")["input_ids"][:, :33]
    with torch.no_grad():
        loss = model(tokens[:, :32], labels=tokens[:, :32]).loss.item()
        ours = json.loads(run_taper("eval", repo, "--data", str(work / "eval.txt"), "--max-tokens", "32", "--json"))
    assert abs(loss - ours["loss"]) < 1e-4, (loss, ours)
    pipe = transformers.pipeline("text-generation", model=repo)
    text = pipe("All that ", max_new_tokens=6, do_sample=False, return_full_text=False)[0]["generated_text"]
    greedy = json.loads(run_taper("sample", repo, "--prompt", "All that ", "--max-new-tokens", "6", "--temperature", "0", "--json"))
    assert text == greedy["samples"][0]["text"], (text, greedy)
    done(f"a run of taper, {name}: card, tokenizer, labels loss ({loss:.6f} and {ours['loss']:.6f}), pipeline")

api.upload_file(path_or_fileobj=b"text", path_in_repo="a b/\u00e4.txt", repo_id="me/gpt2")
assert pathlib.Path(hf_hub_download("me/gpt2", "a b/\u00e4.txt")).read_bytes() == b"text"
pr = api.create_commit("me/gpt2", [CommitOperationDelete("empty.txt")], commit_message="x", create_pr=True)
assert pr.pr_url.endswith("/discussions/1"), pr.pr_url
assert "empty.txt" in api.list_repo_files("me/gpt2")
assert "empty.txt" not in api.list_repo_files("me/gpt2", revision="refs/pr/1")
done("names with blanks, pull requests, listings in pages")

raises(huggingface_hub.errors.HfHubHTTPError, lambda: api.create_commit(
    "me/gpt2", [CommitOperationDelete("empty.txt")], commit_message="x", parent_commit="0" * 40))
raises(RevisionNotFoundError, lambda: snapshot_download("me/gpt2", revision="nowhere"))
raises(RepositoryNotFoundError, lambda: api.repo_info("no/such"))
raises(RepositoryNotFoundError, lambda: HfApi(token=False).repo_info("other/private"))
raises(GatedRepoError, lambda: hf_hub_download("other/gated", "config.json", token=False))
assert pathlib.Path(snapshot_download("other/open")).joinpath("a/b.txt").read_bytes() == b"text"
done("refusals: 412, revisions, private and gated repositories")
print("the test hub is faithful to huggingface_hub", huggingface_hub.__version__)
