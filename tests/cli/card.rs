//! The model card: front matter that is YAML, Markdown that no text can break, and nothing said that was not handed over.
//!
//! The expected lines are written by hand from the Hub's documentation of model cards.

use taper::card::{
    CardEvaluation, CardFacts, CardPower, CardPrice, CardResult, CardSample, DEFAULT_TEMPLATE, Loading, PLACEHOLDERS,
    render, render_with,
};

fn facts() -> CardFacts {
    CardFacts {
        name: "quickstart".into(),
        license: None,
        languages: Vec::new(),
        datasets: Vec::new(),
        base_model: None,
        tags: Vec::new(),
        loading: Loading::Transformers { class: "GPT2LMHeadModel".into() },
        has_tokenizer: true,
        repository: None,
        parameters: 3_540_000,
        parameters_non_embedding: Some(2_500_000),
        architecture: vec![("layers".into(), "4".into()), ("n_embd".into(), "256".into())],
        tokenizer: Some("byte-level BPE, 4096 tokens".into()),
        data: vec!["Rust sources (20 MB)".into()],
        step: 500,
        tokens: 6_144_000,
        data_tokens: Some(3_072_000),
        flops: Some(1.3e14),
        hyperparameters: vec![("learning rate".into(), "1e-3".into())],
        hardware: Some("CPU, 2 threads".into()),
        precision: Some("fp32".into()),
        evaluation: Some(CardEvaluation {
            data: "the last 1% of the text".into(),
            loss: 2.0,
            predictions: Some(30_000),
            ..CardEvaluation::default()
        }),
        samples: vec![CardSample { prompt: "fn main".into(), text: "() {}\n".into(), settings: None }],
        seeds: vec![("seed_init".into(), 1), ("seed_data".into(), 2)],
        command: Some("taper train config.toml".into()),
        config_toml: Some("[run]\nseed = 1\n".into()),
        taper_version: "0.1.0".into(),
        ..CardFacts::default()
    }
}

/// The lines between the two rows of dashes at the very beginning.
fn front_matter(card: &str) -> Vec<&str> {
    let mut lines = card.lines();
    assert_eq!(lines.next(), Some("---"));
    lines.take_while(|line| *line != "---").collect()
}

#[test]
fn front_matter_holds_what_is_known() {
    let expected = ["library_name: \"transformers\"", "pipeline_tag: \"text-generation\"", "tags:", "- \"taper\""];
    assert_eq!(front_matter(&render(&CardFacts { evaluation: None, ..facts() })), expected);

    let full = CardFacts {
        license: Some("apache-2.0".into()),
        languages: vec!["no".into(), "en".into()],
        datasets: vec!["HuggingFaceFW/fineweb".into()],
        base_model: Some("openai-community/gpt2".into()),
        tags: vec!["gpt2".into(), "taper".into()],
        evaluation: None,
        ..facts()
    };
    let expected = [
        "license: \"apache-2.0\"",
        "library_name: \"transformers\"",
        "pipeline_tag: \"text-generation\"",
        "base_model: \"openai-community/gpt2\"",
        "language:",
        "- \"no\"", // unquoted, YAML takes Norwegian for "false"
        "- \"en\"",
        "datasets:",
        "- \"HuggingFaceFW/fineweb\"",
        "tags:",
        "- \"taper\"", // once, though given twice
        "- \"gpt2\"",
    ];
    assert_eq!(front_matter(&render(&full)), expected);
}

#[test]
fn hostile_front_matter_stays_one_line() {
    let card = render(&CardFacts { license: Some("a\"b\\c: #d\n---\ne\u{7}\u{2028}é".into()), ..facts() });
    assert_eq!(front_matter(&card)[0], "license: \"a\\\"b\\\\c: #d\\n---\\ne\\u0007\\u2028é\"");
}

#[test]
fn the_card_tells_the_numbers() {
    let card = render(&facts());
    for line in [
        "# quickstart",
        "| parameters | 3540000 |",
        "| without embeddings | 2500000 |",
        "| n\\_embd | 256 |",
        "| tokenizer | byte-level BPE, 4096 tokens |",
        "- Rust sources (20 MB)",
        "| optimizer steps | 500 |",
        "| training tokens | 6144000 |",
        "| epochs | 2.00 |",
        "| training FLOPs | 1.300e14 |",
        "| hardware | CPU, 2 threads |",
        "| learning rate | 1e-3 |",
        "| data | metric | value | mean of |",
        "| the last 1% of the text | loss (nats per token) | 2.0000 | 30000 |",
        "| the last 1% of the text | perplexity | 7.39 | 30000 |", // e^2 = 7.389
        "The author has named no licence for the weights.",
        "model = AutoModelForCausalLM.from_pretrained(folder)",
        "inputs = tokenizer(\"fn main\", return_tensors=\"pt\")",
        "taper train config.toml",
        "Made with taper 0.1.0. Seeds: `seed_init` = 1, `seed_data` = 2.",
    ] {
        assert!(card.lines().any(|l| l == line), "{line:?} is not in\n{card}");
    }
    assert!(
        card.contains("with 3.54 million parameters, trained from scratch with taper 0.1.0 on 6.14 million tokens")
    );
    assert!(card.contains("It loads in `transformers` as `GPT2LMHeadModel`."));
    assert_eq!(card, render(&facts()), "the same facts give the same bytes");
}

#[test]
fn what_is_not_known_is_not_said() {
    let bare = CardFacts {
        parameters_non_embedding: None,
        tokenizer: None,
        data: Vec::new(),
        data_tokens: None,
        flops: None,
        hardware: None,
        precision: None,
        evaluation: None,
        samples: Vec::new(),
        seeds: Vec::new(),
        command: None,
        config_toml: None,
        ..facts()
    };
    let card = render(&bare);
    for absent in ["None", "TODO", "Data:", "epochs", "FLOPs", "hardware", "Evaluation", "Samples", "Seeds", "config"] {
        assert!(!card.contains(absent), "{absent} in\n{card}");
    }
}

#[test]
fn a_shape_that_transformers_lacks_says_so() {
    let because = vec!["mlp = \"relu2\"".into(), "norm_position = \"post\"".into()];
    let card = render(&CardFacts { loading: Loading::TaperOnly { because }, ..facts() });
    assert!(!card.contains("library_name") && !card.contains("AutoModelForCausalLM"), "{card}");
    assert!(card.contains("does not load in `transformers`"));
    assert!(card.contains("(`mlp = \"relu2\"`, `norm_position = \"post\"`)"));
    assert!(card.contains("```sh\ntaper sample . --max-new-tokens 50 --temperature 0.8\n```"));
}

#[test]
fn no_sample_breaks_out_of_its_fence() {
    let text = "```\n# not a heading\n````\n</details><script>".to_owned();
    let sample = CardSample { prompt: "| `x` *y* <b> ".into(), text: text.clone(), settings: Some("a|b".into()) };
    let card = render(&CardFacts { samples: vec![sample], name: "<i> [x](y) `z`".into(), ..facts() });
    // The longest run of backticks in it is four: the fence has five.
    let block = format!("`````text\n| `x` *y* <b> {text}\n`````\n");
    assert!(card.contains(&block), "{card}");
    assert!(card.contains("# \\<i\\> \\[x\\](y) \\`z\\`\n"));
    assert!(card.contains("With prompt ``| `x` *y* <b> `` (a\\|b):\n"), "{card}");
}

#[test]
fn the_snippet_is_python_whatever_the_prompt() {
    let sample = CardSample { prompt: "a\"b\\\n\té".into(), text: String::new(), settings: None };
    let card = render(&CardFacts { samples: vec![sample], repository: Some("ann/gpt".into()), ..facts() });
    assert!(card.contains("folder = \"ann/gpt\"\n"));
    assert!(card.contains("inputs = tokenizer(\"a\\\"b\\\\\\n\\té\", return_tensors=\"pt\")\n"), "{card}");
    let card = render(&CardFacts { has_tokenizer: false, ..facts() });
    assert!(card.contains("torch.tensor([[0]])") && !card.contains("AutoTokenizer"));
}

/// Everything a card can tell.
fn full() -> CardFacts {
    CardFacts {
        license: Some("apache-2.0".into()),
        evaluation: Some(CardEvaluation {
            data: "the validation split".into(),
            dataset: Some("roneneldan/TinyStories".into()),
            loss: 2.0,
            standard_error: Some(0.05),
            predictions: Some(30_000),
            bits_per_byte: Some(1.0),
        }),
        results: vec![CardResult {
            benchmark: "HellaSwag: zero-shot".into(),
            dataset: None,
            metric: "accuracy".into(),
            value: 0.25,
            standard_error: Some(0.01),
            count: Some(1000),
        }],
        training_seconds: Some(9000.0),
        power: Some(CardPower { watts: 700.0, basis: "the board power of 1 x NVIDIA H200".into() }),
        price: Some(CardPrice { per_hour: 3.5, currency: "USD".into() }),
        loss_curve: Some("loss (1).png".into()),
        limitations: vec!["It knows English only.".into()],
        versions: vec![("CUDA driver".into(), "580.82".into())],
        ..facts()
    }
}

#[test]
fn results_stand_in_the_front_matter_as_the_hub_wants_them() {
    let card = render(&full());
    let lines = front_matter(&card);
    let at = lines.iter().position(|line| *line == "model-index:").unwrap();
    // By the Hub's documentation of `model-index`; scripts/check_card.py has its own library read it.
    let expected = [
        "model-index:",
        "- name: \"quickstart\"",
        "  results:",
        "  - task:",
        "      type: \"text-generation\"",
        "      name: \"Text Generation\"",
        "    dataset:",
        "      type: \"roneneldan/TinyStories\"",
        "      name: \"the validation split\"",
        "    metrics:",
        "    - type: \"loss\"",
        "      name: \"loss (nats per token)\"",
        "      value: 2.0",
        "    - type: \"perplexity\"",
        "      name: \"perplexity\"",
        "      value: 7.38905609893065",
        "    - type: \"bits_per_byte\"",
        "      name: \"bits per byte\"",
        "      value: 1.0",
        "  - task:",
        "      type: \"text-generation\"",
        "      name: \"Text Generation\"",
        "    dataset:",
        "      type: \"text\"",
        "      name: \"HellaSwag: zero-shot\"",
        "    metrics:",
        "    - type: \"accuracy\"",
        "      name: \"accuracy\"",
        "      value: 0.25",
    ];
    assert_eq!(lines[at..], expected);
    let wild = CardEvaluation { loss: f64::INFINITY, ..CardEvaluation::default() };
    let card = render(&CardFacts { evaluation: Some(wild), ..facts() });
    assert!(!card.contains("model-index"), "infinity is no number of YAML's readers");
}

#[test]
fn intervals_time_cost_and_energy_are_worked_out() {
    let card = render(&full());
    for line in [
        "| data | metric | value | 95% interval | mean of |",
        // 2 -+ 1.96 * 0.05 = 1.902, 2.098; e to these: 6.699, 8.150; one bit per byte scales with the loss: 0.951, 1.049.
        "| the validation split | loss (nats per token) | 2.0000 | 1.9020 to 2.0980 | 30000 |",
        "| the validation split | perplexity | 7.39 | 6.70 to 8.15 | 30000 |",
        "| the validation split | bits per byte | 1.0000 | 0.9510 to 1.0490 | 30000 |",
        "| HellaSwag: zero-shot | accuracy | 0.2500 | 0.2304 to 0.2696 | 1000 |",
        "| time | 2 h 30 min |",
        "| cost | 8.75 USD (at 3.50 USD an hour) |", // 2.5 h * 3.5
        "| energy, estimated | 1.75 kWh |",          // 2.5 h * 0.7 kW
        "![The loss in training and validation, by step](<loss (1).png>)",
        "- It knows English only.",
        "The weights are under the licence `apache-2.0`.",
        "With CUDA driver 580.82.",
    ] {
        assert!(card.lines().any(|l| l == line), "{line:?} is not in\n{card}");
    }
    assert!(card.contains("Energy is 700 W times the time, where the power is the board power of 1 x NVIDIA H200;"));
    assert!(card.contains("FLOPs are counted, not measured"));
    for absent in ["TODO", "None", "{{", "\n\n\n"] {
        assert!(!card.contains(absent), "{absent:?} in\n{card}");
    }
}

#[test]
fn a_template_of_the_users_is_filled() {
    let facts = full();
    assert_eq!(render_with(DEFAULT_TEMPLATE, &facts).unwrap(), render(&facts));
    let template = "{{front_matter}}\n\n# My {{ name }}\n\n{{samples}}\n\n{{loss_curve}}\n\n{{perplexity}} at step {{step}}; {x}, {{}}, {{ a b }}\n";
    let bare = CardFacts { loss_curve: None, samples: Vec::new(), ..facts.clone() };
    let card = render_with(template, &bare).unwrap();
    assert!(card.ends_with("\n# My quickstart\n\n7.39 at step 500; {x}, {{}}, {{ a b }}\n"), "{card}");
    assert!(card.starts_with("---\nlicense: \"apache-2.0\"\n"));
    // Text that is put in is no template.
    let forged = CardFacts { name: "{{licence}}".into(), ..facts.clone() };
    assert!(render(&forged).contains("\n# {{licence}}\n"));
    let error = render_with("a\n{{perplexity}} {{losss}}", &facts).unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("{{losss}} is no placeholder") && error.contains("loss_curve"));
    for (name, _) in PLACEHOLDERS {
        let text =
            render_with(&format!("{{{{{name}}}}}"), &CardFacts { repository: Some("a/b".into()), ..facts.clone() });
        assert!(!text.unwrap().trim().is_empty(), "{name}");
    }
}

#[test]
fn facts_come_back_from_json() {
    let facts = full();
    assert_eq!(CardFacts::from_json(&facts.to_json().unwrap(), "card.json".as_ref()).unwrap(), facts);
    let error = CardFacts::from_json("{\"step\": \"x\"}", "card.json".as_ref()).unwrap_err().to_string();
    assert!(error.starts_with("card.json: are no facts"), "{error}");
}

/// The Hub's own library reads the front matter. Runs where the environment names a Python with huggingface_hub:
/// `TAPER_PYTHON=python3 cargo test --test card`.
#[test]
fn the_hubs_library_reads_the_card() {
    let Ok(python) = std::env::var("TAPER_PYTHON") else {
        println!("skipped: TAPER_PYTHON names no Python with huggingface_hub");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let hostile = CardFacts { name: "a: \"b\" #c\u{2028}é".into(), license: Some("other".into()), ..full() };
    for (facts, results) in [(full(), 4), (facts(), 2), (hostile, 4), (CardFacts { evaluation: None, ..facts() }, 0)] {
        let path = folder.path().join("README.md");
        std::fs::write(&path, render(&facts)).unwrap();
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check_card.py");
        let run = std::process::Command::new(&python).arg(script).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
        assert_eq!(said.matches("\"text-generation\",\n").count(), results + 1, "{said}");
    }
}
