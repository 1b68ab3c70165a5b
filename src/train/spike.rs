//! Loss spikes: a loss that stands out from the ones before it.
//!
//! The measure is a robust z-score: the distance from the window's median, in units of 1.4826 times the median absolute
//! deviation, which for normal noise is the standard deviation (Iglewicz and Hoaglin 1993). Mean and standard deviation
//! would let one spike hide the next.

use std::collections::VecDeque;

/// Watches the last finite losses.
#[derive(Clone, Debug)]
pub struct SpikeWatch {
    window: usize,
    threshold: Option<f64>,
    losses: VecDeque<f64>,
}

impl SpikeWatch {
    /// Watches `window` losses; `threshold` is in robust standard deviations above their median (None: nothing is a spike).
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
            let middle = median(self.losses.iter().copied());
            let deviation = 1.4826 * median(self.losses.iter().map(|loss| (loss - middle).abs()));
            // Where more than half are equal the deviation is 0, and whatever is above stands out infinitely.
            let z = if loss > middle { (loss - middle) / deviation } else { 0.0 };
            spike = (z > threshold).then_some(z);
            self.losses.pop_front();
        }
        self.losses.push_back(loss);
        spike
    }
}

/// The middle of finite values, the mean of the two middle ones where their number is even; there is at least one.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { 0.5 * (values[half - 1] + values[half]) }
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
        // One spike does not hide the next.
        assert!(resumed.take(4.0).is_some());
        assert_eq!(SpikeWatch::new(50, None, &again.recent()).take(40.0), None);
    }

    /// By hand: the median of 1, 2, 3, 4, 100 is 3, the distances are 2, 1, 0, 1, 97 with median 1; so 3 + 6 * 1.4826 =
    /// 11.8956.
    #[test]
    fn the_score_is_the_robust_one() {
        let watch = SpikeWatch::new(5, Some(6.0), &[1.0, 100.0, 3.0, 2.0, 4.0]);
        assert_eq!(watch.clone().take(11.895), None);
        let z = watch.clone().take(11.896).unwrap();
        assert!((z - 8.896 / 1.4826).abs() < 1e-12, "{z}");
        assert_eq!(SpikeWatch::new(2, Some(6.0), &[1.0, 1.0]).take(1.5), Some(f64::INFINITY));
        assert_eq!(SpikeWatch::new(2, Some(6.0), &[1.0, 1.0]).take(1.0), None);
        // An even window: the median of 1, 2, 4, 8 is 3, the distances 2, 1, 1, 5 have the median 1.5.
        let z = SpikeWatch::new(4, Some(2.0), &[8.0, 1.0, 4.0, 2.0]).take(9.0).unwrap();
        assert!((z - 6.0 / (1.4826 * 1.5)).abs() < 1e-12, "{z}");
    }
}
