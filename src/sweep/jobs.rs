//! The runs of a sweep, in their order.

use std::path::PathBuf;

use super::config::Sweep;

/// One run of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRun {
    /// The place of its arm in the sweep.
    pub arm: usize,
    /// The seed of initial weights (and of all that varies, where `training` is not set).
    pub seed: u64,
    /// The seed of data order and dropout, where it differs: a run that only splits noise.
    pub training: Option<u64>,
    /// `ARM/seed-N`.
    pub name: String,
    /// Its run folder.
    pub folder: PathBuf,
    /// Its overrides of the base config.
    pub overrides: Vec<String>,
}

/// All runs of a sweep: all arms with the first seed, then all with the second, so that a sweep stopped early can be
/// compared; at the end the runs that only split the noise.
pub fn jobs(sweep: &Sweep) -> Vec<PlannedRun> {
    let main = sweep.seeds.iter().flat_map(|&seed| (0..sweep.arms.len()).map(move |arm| (arm, seed, None)));
    let part = &sweep.seeds[..sweep.noise_split];
    let pairs = part.iter().flat_map(|&a| part.iter().map(move |&b| (a, b)));
    let noise = pairs.filter(|(a, b)| a != b).map(|(init, training)| (sweep.baseline, init, Some(training)));
    main.chain(noise)
        .map(|(arm, seed, training)| {
            let mut overrides = sweep.arms[arm].overrides();
            let mut set = |key: &str, seed: u64, vary: bool| {
                if vary {
                    overrides.push(format!("run.{key}={seed}"));
                }
            };
            set("seed_init", seed, sweep.vary.init);
            set("seed_data", training.unwrap_or(seed), sweep.vary.data);
            set("seed_dropout", training.unwrap_or(seed), sweep.vary.dropout);
            let apart = training.map_or(String::new(), |training| format!("-training-{training}"));
            let name = format!("{}/seed-{seed}{apart}", sweep.arms[arm].name);
            PlannedRun { arm, seed, training, folder: sweep.out.join(&name), name, overrides }
        })
        .collect()
}
