#!/usr/bin/env python3
"""Makes tests/fixtures/adapters: LoRA adapters saved by Python's peft over the tiny models of tests/fixtures, and their logits.

    python3 scripts/make_peft_fixtures.py

For each case a folder holds adapter_config.json and adapter_model.safetensors as peft writes them (B is not zero, as after
training), and expected.json the logits of the adapted model in float64 for the tokens that it names. The models are the
folders that scripts/make_fixtures.py made.
"""

import json
import pathlib
import shutil

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures"
OUT = FIXTURES / "adapters"

# name, model, options of LoraConfig
CASES = [
    ("gpt2_all", "gpt2_tiny", dict(r=3, lora_alpha=5, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)),
    ("gpt2_attention", "gpt2_tiny", dict(r=2, lora_alpha=2, target_modules=["c_attn"], fan_in_fan_out=True)),
    ("llama_all", "llama_tiny", dict(r=3, lora_alpha=6, target_modules="all-linear")),
    ("llama_rslora", "llama_tiny", dict(r=4, lora_alpha=3, target_modules=["q_proj", "v_proj"], use_rslora=True)),
]


def main() -> None:
    for name, base, options in CASES:
        torch.manual_seed(len(name))
        model = AutoModelForCausalLM.from_pretrained(FIXTURES / base, dtype=torch.float64)
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "lora_" in key:
                    # As they are saved, so that nothing is rounded afterwards.
                    value.copy_((0.2 * torch.randn_like(value)).float())
        tokens = torch.randint(0, model.config.vocab_size, (2, 9))
        logits = model.eval()(tokens).logits
        folder = OUT / name
        shutil.rmtree(folder, ignore_errors=True)
        model.float().save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = base
        config["target_modules"] = sorted(config["target_modules"])
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        expected = {"tokens": tokens.tolist(), "logits": [round(x, 9) for x in logits.flatten().tolist()]}
        (folder / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
