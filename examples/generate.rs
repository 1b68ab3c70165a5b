//! Generates text from a model folder, a run, or OWNER/NAME on the Hub: `cargo run --release --example generate -- runs/quickstart`.
//! Without a name it makes a model of random weights, which writes noise.

use std::io::Write;
use std::path::Path;

use taper::arch::ModelConfig;
use taper::checkpoint::write_model_folder;
use taper::data::Tokenizer;
use taper::model::Gpt;
use taper::open::{OpenOptions, open};
use taper::sample::{Event, Request, SamplerConfig, generate_all};
use taper::ui::Silent;
use taper::{Error, Result};

fn random_model(folder: &Path) -> Result<()> {
    let tokenizer = Tokenizer::bytes();
    let (layers, heads, width, context) = (2, 2, 32, 64);
    let model = Gpt::new(ModelConfig::gpt2(layers, heads, width, context, tokenizer.vocab_size()))?;
    write_model_folder(folder, model.config(), &model.initialise(1)?, tokenizer.eot())?;
    tokenizer.save(folder, context)
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("create", "a folder"))?;
    let name = match std::env::args().nth(1) {
        Some(name) => name,
        None => {
            random_model(folder.path())?;
            folder.path().display().to_string()
        }
    };
    let mut opened = open(&name, &OpenOptions::default(), &Silent)?;
    let sampler = SamplerConfig { temperature: 0.8, seed: 7, ..SamplerConfig::default() };
    let request = Request { prompt: "It was", max_new_tokens: 40, stop: &[], sampler: &sampler, sample: 0 };
    let (tokenizer, context) = (opened.tokenizer.clone(), opened.model.config().context_length);
    let mut decoder = opened.decoder(1, context)?;
    print!("{}", request.prompt);
    let samples = generate_all(&mut *decoder, &tokenizer, &[request], false, &mut |_, event| {
        if let Event::Text(text) = event {
            print!("{text}");
            std::io::stdout().flush().map_err(Error::io("write", "standard output"))?;
        }
        Ok(())
    })?;
    println!("\n({} tokens)", samples[0].tokens.len());
    Ok(())
}
