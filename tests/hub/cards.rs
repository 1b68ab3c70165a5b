//! The model card of a push: complete, stable, and its owner's where its owner has written it.

use super::World;
use super::command::{Told, taper};
use super::read;
use super::server::TOKEN;

const CONFIG: &str = "[model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext_length = 16\n[tokenizer]\nkind = \"bytes\"\n\
    [data]\ntext = \"text.txt\"\nval_fraction = 0.2\n[train]\nmicro_batch = 2\nmax_steps = 4\n[schedule]\nwarmup_steps = 1\n\
    [checkpoint]\nevery = 2\n[eval]\nevery = 2\n[sample]\nevery = 2\nprompt = [\"All \"]\nmax_new_tokens = 5\n";

fn trained(world: &World, more: &str) -> Told {
    let home = world.home.path();
    std::fs::write(home.join("c.toml"), format!("{CONFIG}{more}")).unwrap();
    std::fs::write(home.join("text.txt"), "All that is gold does not glitter. ".repeat(30)).unwrap();
    let told = taper(world, &["train", "c.toml", "--device", "cpu", "--run", "run"], &[("HF_TOKEN", TOKEN)]);
    assert_eq!(told.code, 0, "{}", told.err);
    told
}

fn push(world: &World, more: &[&str]) -> Told {
    taper(world, &[&["push", "run", "me/gpt"], more].concat(), &[("HF_TOKEN", TOKEN)])
}

fn card_on_hub(world: &World, id: &str) -> String {
    String::from_utf8(world.hub.files(id, "main")["README.md"].clone()).unwrap()
}

fn readme(world: &World) -> Vec<u8> {
    read(world.home.path().join("run/checkpoints/step-00000004/README.md"))
}

/// The Hub's own library reads the card, where the environment names a Python that has it.
fn check_with_python(world: &World, card: &str) {
    let Ok(python) = std::env::var("TAPER_PYTHON") else {
        println!("skipped: TAPER_PYTHON names no Python with huggingface_hub");
        return;
    };
    let path = world.home.path().join("card.md");
    std::fs::write(&path, card).unwrap();
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check_card.py");
    let run = std::process::Command::new(python).arg(script).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_pushed_card_is_complete() {
    let world = World::start();
    trained(&world, "");
    let before = readme(&world);
    let told = push(&world, &["--license", "mit", "--price-per-hour", "7200", "--watts", "100", "--json"]).json();
    assert!(told["committed"].as_array().unwrap().contains(&"report/loss.png".into()), "{told}");
    let card = card_on_hub(&world, "me/gpt");
    for part in [
        "license: \"mit\"",
        "model-index:",
        "# gpt\n",
        "AutoModelForCausalLM.from_pretrained(folder)",
        "folder = \"me/gpt\"",
        "taper sample me/gpt",
        "| layers | 1 |",
        "| learning rate |",
        "| optimizer steps | 4 |",
        "| training FLOPs |",
        "| hardware |",
        "| time |",
        " USD (at 7200.00 USD an hour) |",
        "| energy, estimated |",
        "Energy is 100 W times the time, where the power is as the author states;",
        "![The loss in training and validation, by step](<report/loss.png>)",
        "| 95% interval |",
        "## Samples",
        "With prompt `All `",
        "## Limitations",
        "The weights are under the licence `mit`.",
        "taper train config.toml",
        "`seed_init` = ",
        &format!("Made with taper {}", env!("CARGO_PKG_VERSION")),
        "n_embd = 16",
    ] {
        assert!(card.contains(part), "{part:?} is not in\n{card}");
    }
    for absent in ["TODO", "{{", "None", "NaN", "null"] {
        assert!(!card.contains(absent), "{absent:?} in\n{card}");
    }
    assert!(world.hub.files("me/gpt", "main")["report/loss.png"].starts_with(b"\x89PNG"));
    check_with_python(&world, &card);
    // The checkpoint stays as it was, and the same push says that all is there.
    assert_eq!(readme(&world), before);
    assert!(!String::from_utf8_lossy(&before).contains("| time |"), "what a clock says is not in a checkpoint");
    let again = push(&world, &["--license", "mit", "--price-per-hour", "7200", "--watts", "100"]);
    assert!(again.err.contains("nothing was committed"), "{}", again.err);
    // The dry run shows the card that would be sent, and its numbers are checked.
    let dry = push(&world, &["--license", "apache-2.0", "--dry-run"]);
    assert!(dry.out.contains("license: \"apache-2.0\"") && dry.out.contains("| energy, estimated |"), "{}", dry.out);
    assert_eq!(push(&world, &["--watts", "-1", "--dry-run"]).code, 2);
}

#[test]
fn a_card_that_its_owner_wrote_goes_up_as_it_stands() {
    let world = World::start();
    trained(&world, "");
    let path = world.home.path().join("run/checkpoints/step-00000004/README.md");
    std::fs::write(&path, "---\nlicense: mit\n---\n# My own words\n").unwrap();
    let told = push(&world, &[]);
    assert!(told.code == 0 && told.err.contains("edited by hand"), "{}", told.err);
    assert_eq!(card_on_hub(&world, "me/gpt"), "---\nlicense: mit\n---\n# My own words\n");
    // A template is asked for in so many words.
    let template = "{{front_matter}}\n# Mine: {{name}}\n\nStep {{step}}, {{repository}}.\n\n{{evaluation}}\n";
    std::fs::write(world.home.path().join("card.md"), template).unwrap();
    assert_eq!(push(&world, &["--card-template", "card.md"]).code, 0);
    let card = card_on_hub(&world, "me/gpt");
    assert!(card.contains("# Mine: gpt\n\nStep 4, me/gpt.\n\n## Evaluation"), "{card}");
    assert_eq!(read(&path), b"---\nlicense: mit\n---\n# My own words\n");
    std::fs::write(world.home.path().join("card.md"), "{{front_matter}}\n{{losss}}\n").unwrap();
    let told = push(&world, &["--card-template", "card.md"]);
    assert!(told.code == 2 && told.err.contains("line 2") && told.err.contains("losss"), "{}", told.err);
    assert_eq!(push(&world, &["--card-template", "nowhere.md"]).code, 1);
    // A checkpoint away from its run has neither clock nor picture, and a card all the same.
    let away = world.home.path().join("away");
    std::fs::create_dir(&away).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(path.with_file_name(file), away.join(file)).unwrap();
    }
    let told = taper(&world, &["push", "away", "me/away"], &[("HF_TOKEN", TOKEN)]);
    assert_eq!(told.code, 0, "{}", told.err);
    let card = card_on_hub(&world, "me/away");
    assert!(card.contains("# away\n") && card.contains("| layers | 1 |") && !card.contains("| time |"), "{card}");
    check_with_python(&world, &card);
    // What taper cannot read it still pushes, without a card.
    world.folder("foreign", &[("config.json", b"{\"model_type\": \"mamba\"}"), ("model.safetensors", b"weights")]);
    let told = taper(&world, &["push", "foreign", "me/foreign"], &[("HF_TOKEN", TOKEN)]);
    assert!(told.code == 0 && told.err.contains("mamba"), "{}", told.err);
    assert!(!world.hub.files("me/foreign", "main").contains_key("README.md"));
}

#[test]
fn a_run_pushes_completed_cards_and_stays_as_it_is() {
    let world = World::start();
    std::fs::write(
        world.home.path().join("card.md"),
        "{{front_matter}}\n# By template\n\n{{training}}\n\n{{loss_curve}}\n",
    )
    .unwrap();
    let push = "[push]\nevery = \"checkpoint\"\nrepo = \"me/run\"\nlicense = \"mit\"\nprice_per_hour = 36\ncurrency = \"EUR\"\n\
        card_template = \"card.md\"\n";
    let told = trained(&world, push);
    assert!(told.err.contains("pushed step-00000004"), "{}", told.err);
    let card = card_on_hub(&world, "me/run");
    for part in
        ["license: \"mit\"", "# By template", "| time |", " EUR (at 36.00 EUR an hour) |", "(<report/loss.png>)"]
    {
        assert!(card.contains(part), "{part:?} is not in\n{card}");
    }
    assert!(world.hub.files("me/run", "main").contains_key("report/loss.png"));
    let own = String::from_utf8(readme(&world)).unwrap();
    assert!(own.contains("license: \"mit\"") && !own.contains("By template"), "{own}");
    // What the command says by hand later is what the run said.
    let dry = taper(&world, &["push", "run", "me/run", "--dry-run"], &[("HF_TOKEN", TOKEN)]);
    assert!(dry.out.contains("# By template") && dry.out.contains("EUR"), "{}", dry.out);
}
