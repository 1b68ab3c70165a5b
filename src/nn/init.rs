//! How parameters come into the arena, and what they are at the start.
//!
//! GPT-2's initialisation (Radford et al. 2019): normal with standard deviation 0.02, the projections back into the
//! residual stream scaled by 1/sqrt(2 L), biases zero, norm weights one. A packed parameter is initialised part by part
//! under each part's own name, so that the queries of a model with fewer key-value heads start as those of one with more.

use crate::device::Device;
use crate::error::Result;
use crate::random::{Purpose, fill_normal, fill_uniform};
use crate::tape::{Layout, ParamId, ParamInfo, Params};

/// What a parameter is at the start.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Uniform between minus this and this.
    Uniform {
        /// The bound.
        bound: f64,
    },
    /// Normal with this standard deviation; the parts split the rows of a packed parameter: (name, rows).
    Normal {
        /// Standard deviation.
        std: f64,
        /// Names and rows of the parts, in order.
        parts: Vec<(String, usize)>,
    },
}

/// Collects parameters in arena order.
#[derive(Debug, Default)]
pub struct Builder {
    layout: Layout,
    inits: Vec<Init>,
}

impl Builder {
    /// Adds a weight with normal values.
    pub fn normal(&mut self, name: &str, shape: &[usize], std: f64) -> ParamId {
        self.packed(name, shape, std, &[(name.to_string(), shape[0])])
    }

    /// Adds a weight whose rows belong to several parts, each initialised under its own name.
    pub fn packed(&mut self, name: &str, shape: &[usize], std: f64, parts: &[(String, usize)]) -> ParamId {
        assert_eq!(parts.iter().map(|(_, rows)| rows).sum::<usize>(), shape[0], "{name}: rows of the parts");
        self.push(name, shape, Init::Normal { std, parts: parts.to_vec() })
    }

    /// Adds a vector of zeros where `present`.
    pub fn bias(&mut self, name: &str, len: usize, present: bool) -> Option<ParamId> {
        present.then(|| self.push(name, &[len], Init::Zeros))
    }

    /// Adds a vector of ones.
    pub fn ones(&mut self, name: &str, len: usize) -> ParamId {
        self.push(name, &[len], Init::Ones)
    }

    /// Adds a matrix of uniform values within `bound`.
    pub fn uniform(&mut self, name: &str, shape: &[usize], bound: f64) -> ParamId {
        self.push(name, shape, Init::Uniform { bound })
    }

    /// Adds a matrix of zeros.
    pub fn zeros(&mut self, name: &str, shape: &[usize]) -> ParamId {
        self.push(name, shape, Init::Zeros)
    }

    /// Makes all parameters so far ones that are not trained.
    pub fn freeze(&mut self) {
        self.layout.freeze();
    }

    fn push(&mut self, name: &str, shape: &[usize], init: Init) -> ParamId {
        self.inits.push(init);
        self.layout.push(name, shape)
    }

    /// The finished layout and the initial values' recipe.
    pub fn finish(self) -> (Layout, Vec<Init>) {
        (self.layout, self.inits)
    }
}

/// Parameters with their initial values: a function of the seed and each (part's) name.
///
/// # Errors
/// If memory cannot be had.
pub fn initialise(layout: &Layout, inits: &[Init], seed: u64) -> Result<Params> {
    let mut params = Params::zeros(layout.clone(), Device::Cpu)?;
    for (index, (info, init)) in layout.infos().iter().zip(inits).enumerate() {
        params.set(ParamId(index), &initial(info, init, seed))?;
    }
    Ok(params)
}

/// The initial values of one parameter.
pub fn initial(info: &ParamInfo, init: &Init, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; info.len()];
    match init {
        Init::Zeros => {}
        Init::Ones => values.fill(1.0),
        Init::Uniform { bound } => {
            fill_uniform(seed, Purpose::Init, &info.name, &mut values);
            values.iter_mut().for_each(|value| *value = ((2.0 * f64::from(*value) - 1.0) * bound) as f32);
        }
        Init::Normal { std, parts } => {
            let width = info.len() / info.shape[0];
            let mut first = 0;
            for (name, rows) in parts {
                let part = &mut values[first * width..][..rows * width];
                fill_normal(seed, Purpose::Init, name, 0, part);
                part.iter_mut().for_each(|value| *value = (f64::from(*value) * std) as f32);
                first += rows;
            }
        }
    }
    values
}
