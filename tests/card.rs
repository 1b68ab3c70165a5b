//! The model card: front matter that is YAML, Markdown that no text can break, and nothing said that was not handed over.
//!
//! The expected lines are written by hand from the Hub's documentation of model cards.

use taper::card::{CardEvaluation, CardFacts, CardSample, Loading, render};

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
            bits_per_byte: None,
        }),
        samples: vec![CardSample { prompt: "fn main".into(), text: "() {}\n".into(), settings: None }],
        seeds: vec![("seed_init".into(), 1), ("seed_data".into(), 2)],
        command: Some("taper train config.toml".into()),
        config_toml: Some("[run]\nseed = 1\n".into()),
        taper_version: "0.1.0".into(),
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
    assert_eq!(front_matter(&render(&facts())), expected);

    let full = CardFacts {
        license: Some("apache-2.0".into()),
        languages: vec!["no".into(), "en".into()],
        datasets: vec!["HuggingFaceFW/fineweb".into()],
        base_model: Some("openai-community/gpt2".into()),
        tags: vec!["gpt2".into(), "taper".into()],
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
        "| validation loss (nats per token) | 2.0000 |",
        "| perplexity | 7.39 |", // e^2 = 7.389
        "| predicted tokens | 30000 |",
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
