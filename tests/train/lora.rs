//! Adapters through the binary: trained, resumed, opened, merged.

use super::chat::shop;
use super::common::{Shop, read, stderr};
use taper::events::Event;

const MORE: [&str; 8] = [
    "--set",
    "data.chat_template=template.jinja",
    "--set",
    "lora.rank=4",
    "--set",
    "lora.dropout=0.05",
    "--set",
    "optimizer.lr=3e-2",
];

fn files(shop: &Shop, run: &str, step: u64) -> Vec<Vec<u8>> {
    let folder = shop.path(run).join(format!("checkpoints/step-{step:08}"));
    assert!(!folder.join("model.safetensors").exists() && !folder.join("config.json").exists());
    let names = [
        "adapter_model.safetensors",
        "adapter_config.json",
        "training/arena.safetensors",
        "training/state.json",
        "README.md",
    ];
    names.iter().map(|name| read(&folder.join(name))).collect()
}

#[test]
fn adapters_are_trained_resumed_opened_and_merged() {
    let shop = shop();
    let output = shop.trained("runs/whole", &MORE);
    assert!(stderr(&output).contains("adapters"), "{}", stderr(&output));
    let losses: Vec<f64> = shop
        .log("runs/whole")
        .events
        .iter()
        .filter_map(|event| if let Event::Step(step) = event { Some(step.loss) } else { None })
        .collect();
    assert!(losses[0] > 4.0 && losses[39] < losses[0] / 2.0, "{losses:?}");

    // Cut off and resumed: the same bits.
    shop.trained("runs/cut", &MORE);
    for step in [20, 30, 40] {
        std::fs::remove_dir_all(shop.path(&format!("runs/cut/checkpoints/step-{step:08}"))).unwrap();
    }
    shop.trained("runs/cut", &[&MORE[..], &["--resume"]].concat());
    assert_eq!(files(&shop, "runs/whole", 40), files(&shop, "runs/cut", 40));
    // The state is that of the adapters alone: less than the base's weights with moments.
    let arena =
        std::fs::metadata(shop.path("runs/whole/checkpoints/step-00000040/training/arena.safetensors")).unwrap();
    let base = std::fs::metadata(shop.path("base/model.safetensors")).unwrap();
    assert!(arena.len() < base.len() * 2, "{} and {}", arena.len(), base.len());

    // A run is opened with its adapters merged, from anywhere; and so is what is exported.
    let sample = |model: &str| {
        let arguments = ["sample", model, "--prompt", "7>", "--temperature", "0", "--max-new-tokens", "8", "--json"];
        let output = shop.taper(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let mut found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        found["samples"][0]["tokens"].take()
    };
    let export = ["model", "export", "runs/whole", "--merge", "--format", "hf", "--out", "merged"];
    let output = shop.taper(&export).output().unwrap();
    assert!(output.status.success() && stderr(&output).contains("is merged into"), "{}", stderr(&output));
    assert_eq!(sample("runs/whole"), sample("merged"));
    assert_ne!(sample("runs/whole"), sample("base"));
    let config: serde_json::Value = serde_json::from_slice(&read(&shop.path("merged/tokenizer_config.json"))).unwrap();
    assert!(config["chat_template"].as_str().is_some_and(|template| template.contains("eos_token")));

    // The base must be the one that they were trained on.
    let weights = shop.path("base/model.safetensors");
    let mut bytes = read(&weights);
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    std::fs::remove_dir_all(shop.path("runs/cut/checkpoints/step-00000040")).unwrap();
    let output = shop.train("runs/cut", &[&MORE[..], &["--resume"]].concat());
    assert!(stderr(&output).contains("correct another model"), "{}", stderr(&output));
}

#[test]
fn what_cannot_have_adapters_is_told() {
    let shop = shop();
    let told = |more: &[&str], words: &str| {
        let output = shop.train("runs/bad", &[&MORE[..], more].concat());
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    };
    told(&["--set", "lora.targets=q_proj"], "c_attn, c_proj, c_fc");
    told(&["--engine", "reference"], "native engine");
    let output = shop.taper(&["model", "export", "base", "--merge", "--format", "hf", "--out", "m"]).output().unwrap();
    assert!(stderr(&output).contains("is no adapter"), "{}", stderr(&output));
    // Next to the lines of a folder that was trained with them.
    shop.trained("runs/a", &[&MORE[..], &["--set", "train.max_steps=1"]].concat());
    let more = [&MORE[..], &["--set", "model.init_from=runs/a"]].concat();
    let output = shop.train("runs/b", &more);
    assert!(stderr(&output).contains("is itself an adapter"), "{}", stderr(&output));
}
