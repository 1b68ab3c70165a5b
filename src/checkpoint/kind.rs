//! Which kind of model folder a shape is saved as.

use super::family::{FAMILIES, Family};
use super::hf_config::HfConfig;
use super::table::{HfTensor, own_table};
use crate::arch::config::ModelConfig;
use crate::error::Result;

/// Which kind of model folder a shape is saved as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FolderKind {
    /// One that transformers loads.
    Family(&'static Family),
    /// Our own names, which transformers does not load.
    Own {
        /// The options that keep the nearest family from expressing the shape, as sentences.
        reasons: Vec<String>,
    },
}

impl FolderKind {
    /// The kind that a shape is saved as.
    pub fn of(config: &ModelConfig) -> FolderKind {
        let mut nearest: Option<Vec<String>> = None;
        for family in FAMILIES {
            let obstacles = (family.obstacles)(config);
            if obstacles.is_empty() {
                return FolderKind::Family(family);
            }
            if nearest.as_ref().is_none_or(|nearest| obstacles.len() < nearest.len()) {
                nearest = Some(obstacles);
            }
        }
        FolderKind::Own { reasons: nearest.unwrap_or_default() }
    }

    /// The kind of a folder whose config.json has this `model_type`.
    pub(super) fn of_type(model_type: &str) -> Option<FolderKind> {
        let family = FAMILIES.into_iter().find(|family| family.model_type == model_type);
        let own = || (model_type == OWN_TYPE).then(|| FolderKind::Own { reasons: Vec::new() });
        family.map(FolderKind::Family).or_else(own)
    }

    /// The name of the architecture in config.json.
    pub fn architecture(&self) -> &'static str {
        match self {
            FolderKind::Family(family) => family.class,
            FolderKind::Own { .. } => "TaperForCausalLM",
        }
    }

    /// The family, if transformers has one of this shape.
    pub fn family(&self) -> Option<&'static Family> {
        match self {
            FolderKind::Family(family) => Some(family),
            FolderKind::Own { .. } => None,
        }
    }

    /// Whether transformers loads such a folder as it is.
    pub fn loads_in_transformers(&self) -> bool {
        self.family().is_some()
    }

    /// What keeps transformers from loading such a folder, as sentences; empty where it does.
    pub fn obstacles(&self) -> &[String] {
        match self {
            FolderKind::Family(_) => &[],
            FolderKind::Own { reasons } => reasons,
        }
    }

    /// The tensors of a file: of one that is there, with its config.json, or of one that is to be written.
    pub(super) fn table(&self, config: &ModelConfig, written: Option<&HfConfig>) -> Result<Vec<HfTensor>> {
        match self {
            FolderKind::Family(family) => (family.table)(config, written),
            FolderKind::Own { .. } => Ok(own_table(config)),
        }
    }
}

/// The `model_type` of our own folders.
pub(super) const OWN_TYPE: &str = "taper";
