//! Loss spikes: a loss that stands out from the ones before it.

use std::collections::VecDeque;

/// Watches the last finite losses.
#[derive(Clone, Debug)]
pub struct SpikeWatch {
    window: usize,
    threshold: Option<f64>,
    losses: VecDeque<f64>,
}

impl SpikeWatch {
    /// Watches `window` losses; `threshold` is in standard deviations above their mean (None: nothing is a spike).
    pub fn new(window: u64, threshold: Option<f64>, recent: &[f64]) -> SpikeWatch {
        let window = window as usize;
        let losses = recent.iter().copied().skip(recent.len().saturating_sub(window)).collect();
        SpikeWatch { window, threshold, losses }
    }

    /// The losses of the window, oldest first: what a checkpoint keeps.
    pub fn recent(&self) -> Vec<f64> {
        self.losses.iter().copied().collect()
    }

    /// Takes a step's loss; gives its z-score if it is a spike. Only a full window judges; what is not finite is not
    /// counted (it has an event of its own).
    pub fn take(&mut self, loss: f64) -> Option<f64> {
        let threshold = self.threshold?;
        if !loss.is_finite() {
            return None;
        }
        let mut spike = None;
        if self.losses.len() == self.window {
            let n = self.window as f64;
            let mean = self.losses.iter().sum::<f64>() / n;
            let variance = self.losses.iter().map(|loss| (loss - mean) * (loss - mean)).sum::<f64>() / n;
            let z = (loss - mean) / variance.sqrt();
            spike = (z > threshold).then_some(z);
            self.losses.pop_front();
        }
        self.losses.push_back(loss);
        spike
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_spike_is_found_and_noise_is_not() {
        let mut watch = SpikeWatch::new(50, Some(6.0), &[]);
        for i in 0..200 {
            let noise = f64::from(i * 37 % 11) / 100.0;
            assert_eq!(watch.take(3.0 + noise), None);
        }
        assert_eq!(watch.take(f64::NAN), None);
        let again = watch.clone();
        assert!(watch.take(4.0).is_some_and(|z| z > 20.0));
        // A copy made from what a checkpoint keeps judges alike.
        let mut resumed = SpikeWatch::new(50, Some(6.0), &again.recent());
        assert!(resumed.take(4.0).is_some());
        assert_eq!(SpikeWatch::new(50, None, &again.recent()).take(40.0), None);
    }
}
