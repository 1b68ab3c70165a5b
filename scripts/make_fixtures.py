#!/usr/bin/env python3
"""Writes tests/fixtures/: what transformers and PyTorch say about four tiny random models.

Each fixture is a folder:
  config.json, model.safetensors   the model, as `save_pretrained` writes it
  expected.safetensors             input_ids, targets [2,16]; logits [2,16,V]; grad.NAME for every parameter NAME of the
                                   transformers model; train.input_ids, train.targets [20,2,16]; step20.NAME, the weights
                                   after 20 steps of torch.optim.AdamW
  expected.json                    the losses and gradient norms, the optimizer's settings, and float32_error: how far
                                   torch's own float32 computation lies from the float64 truth (largest absolute
                                   difference), the ruler for tolerances

Truth is computed by the transformers modules in float64. Two of Llama's modules compute in float32 whatever their dtype
(RMSNorm, and the table of rotary angles); for the float64 run they are replaced by the same formulas in float64, and the
script checks that the replacement agrees with the original in float32. Logits are stored in float64, gradients and
weights rounded to float32 to keep the files small.

The training run follows nanoGPT: decay on every tensor of two or more dimensions (embeddings included), none on the
rest; gradients clipped to a global norm of 1; a different batch every step; a constant learning rate.

One trap: without rotary positions the gradient of a key bias is zero in exact arithmetic (it adds the same number to all
scores of a query), so AdamW divides rounding noise by rounding noise. After 20 float32 steps those biases are arbitrary
(and harmless); compare everything but them.

Run:  python scripts/make_fixtures.py     (needs torch, transformers, safetensors; the output is deterministic)
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

OUT = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
B, T, V, CONTEXT, STEPS = 2, 16, 97, 24, 20
OPTIMIZER = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}

FIXTURES = {
    # The common GPT-2: tanh GELU, tied. Widths that no vector register divides.
    "gpt2_tiny": GPT2Config(
        vocab_size=V, n_positions=CONTEXT, n_embd=36, n_layer=2, n_head=4, activation_function="gelu_new",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0),
    # Exact GELU, an output layer of its own, an MLP of unusual width.
    "gpt2_erf_untied": GPT2Config(
        vocab_size=V, n_positions=CONTEXT, n_embd=16, n_layer=1, n_head=2, n_inner=40, activation_function="gelu",
        layer_norm_epsilon=1e-4, tie_word_embeddings=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0),
    # Llama with grouped queries (4 heads, 2 key-value heads), untied.
    "llama_tiny": LlamaConfig(
        vocab_size=V, hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=0, eos_token_id=0),
    # Tied, every bias there is, one key-value head, heads wider than hidden_size / num_attention_heads, another theta.
    "llama_tied_bias": LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=12, max_position_embeddings=CONTEXT, rms_norm_eps=1e-6,
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}, bos_token_id=0, eos_token_id=0),
}


def randomize(model, generator):
    """Fills every parameter: norms around one, biases around zero, matrices large enough for uneven attention."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float32)
        if p.dim() >= 2:
            value = 0.2 * noise
        elif name.endswith("bias"):
            value = 0.1 * noise
        else:
            value = 1.0 + 0.2 * noise
        with torch.no_grad():
            p.copy_(value)


def rms_norm_any_dtype(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def rotary_any_dtype(self, x, position_ids):
    dim = self.inv_freq.shape[0] * 2
    theta = self.config.rope_parameters["rope_theta"]
    inv_freq = theta ** (-torch.arange(0, dim, 2, dtype=x.dtype) / dim)
    angles = position_ids[..., None].to(x.dtype) * inv_freq
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def in_double(model):
    """A float64 copy of the model that computes in float64 throughout."""
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    for module in copy.modules():
        if isinstance(module, modeling_llama.LlamaRMSNorm):
            module.forward = rms_norm_any_dtype.__get__(module)
        if isinstance(module, modeling_llama.LlamaRotaryEmbedding):
            module.forward = rotary_any_dtype.__get__(module)
    ids = torch.arange(T)[None] % V
    with torch.no_grad():
        difference = (copy(ids).logits - model(ids).logits).abs().max().item()
    assert difference < 2e-5, f"the float64 formulas differ from transformers' own by {difference}"
    return copy.double()


def loss_of(model, x, y):
    logits = model(x, use_cache=False).logits
    return logits, F.cross_entropy(logits.flatten(0, 1), y.flatten())


def gradients(model, x, y):
    model.zero_grad(set_to_none=True)
    logits, loss = loss_of(model, x, y)
    loss.backward()
    grads = {name: p.grad.detach().clone() for name, p in model.named_parameters()}
    return logits.detach(), loss.item(), grads


def train(model, xs, ys):
    """20 steps of AdamW in the model's own dtype: losses, gradient norms before clipping, final weights."""
    parameters = list(model.parameters())
    o = OPTIMIZER
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in parameters if p.dim() >= 2], "weight_decay": o["weight_decay"]},
         {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}],
        lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"], foreach=False)
    losses, norms = [], []
    for x, y in zip(xs, ys):
        optimizer.zero_grad(set_to_none=True)
        _, loss = loss_of(model, x, y)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, o["clip_norm"]).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms, {name: p.detach().clone() for name, p in model.named_parameters()}


def largest_difference(a, b):
    return {name: (a[name].double() - b[name].double()).abs().max().item() for name in a}


def make(name, config, seed):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    kind = GPT2LMHeadModel if config.model_type == "gpt2" else LlamaForCausalLM
    single = kind(config).eval()
    randomize(single, generator)
    single.save_pretrained(folder)
    double = in_double(single).eval()

    tokens = torch.randint(0, V, (B, T + 1), generator=generator)
    x, y = tokens[:, :-1], tokens[:, 1:]
    stream = torch.randint(0, V, (STEPS, B, T + 1), generator=generator)
    xs, ys = stream[..., :-1], stream[..., 1:]

    # transformers' own loss, once, to be sure that ours is the same mean over the same targets.
    own = single(torch.cat((x, y[:, -1:]), 1), labels=torch.cat((x, y[:, -1:]), 1)).loss.item()
    logits32, loss32, grads32 = gradients(single, x, y)
    assert abs(own - loss32) < 1e-5, (own, loss32)
    logits, loss, grads = gradients(double, x, y)
    losses, norms, weights = train(double, xs, ys)
    losses32, norms32, weights32 = train(single, xs, ys)

    tensors = {
        "input_ids": x.to(torch.int32), "targets": y.to(torch.int32), "logits": logits,
        "train.input_ids": xs.to(torch.int32), "train.targets": ys.to(torch.int32),
    }
    tensors |= {f"grad.{n}": g.float() for n, g in grads.items()}
    tensors |= {f"step{STEPS}.{n}": w.float() for n, w in weights.items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")
    expected = {
        "made_by": f"scripts/make_fixtures.py, torch {torch.__version__}, transformers {transformers.__version__}",
        "loss": loss,
        "train": {"steps": STEPS, **OPTIMIZER, "losses": losses, "grad_norms": norms},
        "float32_error": {
            "loss": abs(loss32 - loss),
            "logits": (logits32.double() - logits).abs().max().item(),
            "grads": largest_difference(grads32, grads),
            "losses": [abs(a - b) for a, b in zip(losses32, losses)],
            "grad_norms": [abs(a - b) for a, b in zip(norms32, norms)],
            "weights": largest_difference(weights32, weights),
        },
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: {sum(p.numel() for p in single.parameters())} parameters, loss {loss:.6f}, "
          f"20 steps {losses[0]:.4f} -> {losses[-1]:.4f}, norms {min(norms):.2f}..{max(norms):.2f}, {size} bytes; "
          f"torch float32 is off by {max(expected['float32_error']['grads'].values()):.1e} in gradients, "
          f"{max(expected['float32_error']['losses']):.1e} in losses, "
          f"{max(expected['float32_error']['weights'].values()):.1e} in weights")
    return size


def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    sizes = [make(name, config, 1234 + i) for i, (name, config) in enumerate(FIXTURES.items())]
    print(f"{sum(sizes)} bytes in {OUT}")
    return 0 if sum(sizes) < 1_500_000 else 1


if __name__ == "__main__":
    sys.exit(main())
