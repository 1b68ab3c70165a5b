//! What holds for every config: writing and reading is exact, and nothing that comes in makes the parser panic.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use taper::config::{Config, schema};

const MINIMAL: &str = "[data]\ntext = \"a.txt\"\n[train]\nmax_steps = 10\n";

fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

/// Overrides that are valid together, with awkward values.
fn any_overrides() -> impl Strategy<Value = Vec<String>> {
    let positive = (1e-300..1e300f64, -20i32..20).prop_map(|(x, e)| (x * 10f64.powi(e)).clamp(1e-300, 1e300));
    let unit = 0.0..1.0f64;
    let text = proptest::collection::vec(any::<char>(), 1..12).prop_map(|text| text.into_iter().collect::<String>());
    (positive.clone(), positive, unit.clone(), unit, text, 0..=i64::MAX, 1u64..1000, any::<bool>()).prop_map(
        |(lr, clip, beta, ratio, text, seed, n, flag)| {
            vec![
                format!("optimizer.lr={lr:e}"),
                format!("stability.clip_norm={}", if flag { "\"off\"".into() } else { format!("{clip:e}") }),
                format!("optimizer.beta1={beta:?}"),
                format!("schedule.min_lr_ratio={ratio:?}"),
                format!("sample.prompt=[{}]", toml::Value::String(text.clone())),
                format!("data.text={}", toml::Value::String(text)),
                format!("run.seed={seed}"),
                format!("eval.every={n}"),
                format!("train.micro_batch={n}"),
                format!("model.bias={flag}"),
                format!("schedule.kind={}", if flag { "wsd" } else { "linear" }),
            ]
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn writing_and_reading_is_exact(overrides in any_overrides()) {
        let mut config = Config::from_str(MINIMAL, "my.toml", &overrides).unwrap();
        for _ in 0..2 {
            let text = config.to_toml();
            let reread = Config::from_str(&text, "config.toml", &[]).unwrap();
            prop_assert_eq!(&reread, &config);
            prop_assert_eq!(reread.to_toml(), text);
            prop_assert_eq!(reread.hash(), config.hash());
            config.resolve_model(300, None).unwrap();
        }
    }

    // Anything may come in; only an `Ok` or an `Err` may come out. What comes out `Ok` can be written and read.
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        survives(&String::from_utf8_lossy(&bytes), &[])?;
        survives(MINIMAL, &[String::from_utf8_lossy(&bytes).into_owned()])?;
    }

    #[test]
    fn mutated_configs_never_panic(
        which in any::<prop::sample::Index>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..6, any::<prop::sample::Index>()), 1..6),
    ) {
        const BITS: [&str; 16] = [
            "=", "\n", "[", "]", "\"", "-", "0", "9999999999999999999", "1e400", "nan", "'''", "{}", "\u{1f600}", ".", "true", "\\u",
        ];
        let files = shipped();
        let mut text: Vec<char> = std::fs::read_to_string(which.get(&files)).unwrap().chars().collect();
        for (at, cut, bit) in edits {
            let start = at.index(text.len().max(1)).min(text.len());
            let end = (start + cut).min(text.len());
            text.splice(start..end, bit.get(&BITS).chars());
        }
        survives(&text.into_iter().collect::<String>(), &[])?;
    }

    #[test]
    fn any_value_for_any_key_never_panics(
        section in any::<prop::sample::Index>(),
        key in any::<prop::sample::Index>(),
        value in any::<prop::sample::Index>(),
    ) {
        const VALUES: [&str; 18] = [
            "", "0", "-0.0", "1", "-1", "9223372036854775807", "-9223372036854775808", "1e308", "-1e308", "inf", "-inf", "nan",
            "true", "[]", "[[]]", "{a=1}", "1979-05-27", "\u{0}\u{7f}",
        ];
        let section = section.get(schema::sections());
        let key = key.get(&section.keys);
        survives(MINIMAL, &[format!("{}.{}={}", section.name, key.name, value.get(&VALUES))])?;
    }
}

fn survives(text: &str, overrides: &[String]) -> Result<(), TestCaseError> {
    match Config::from_str(text, "my.toml", overrides) {
        Ok(mut config) => {
            let _ = config.resolve_model(1000, None);
            let _ = (config.notes(), config.hash(), config.run_dir(), config.train.steps(64, 1000));
            let written = config.to_toml();
            let reread = Config::from_str(&written, "my.toml", &[]);
            prop_assert_eq!(reread.map_err(|error| error.to_string()), Ok(config));
        }
        Err(error) => {
            prop_assert_eq!(error.exit_code(), 2);
            prop_assert!(!error.to_string().is_empty());
        }
    }
    Ok(())
}
