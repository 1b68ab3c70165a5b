//! Initial values of parameters, as [`crate::arch::init`] says what they are: a function of the seed and each (part's) name.

use crate::arch::init::Init;
use crate::arch::layout::ParamSpec;
use crate::device::Device;
use crate::error::Result;
use crate::random::{Purpose, fill_normal, fill_uniform};
use crate::tape::{Layout, ParamId, ParamInfo, Params};

/// Parameters with their initial values: a function of the seed and each (part's) name.
///
/// # Errors
/// If memory cannot be had.
pub fn initialise(layout: &Layout, specs: &[ParamSpec], seed: u64) -> Result<Params> {
    let mut params = Params::zeros(layout.clone(), Device::Cpu)?;
    for (index, (info, spec)) in layout.infos().iter().zip(specs).enumerate() {
        params.set(ParamId(index), &initial(info, &spec.init, seed))?;
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
