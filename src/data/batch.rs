//! Rows of tokens as a forward pass takes them.

/// A target that counts for nothing.
pub const IGNORE: u32 = u32::MAX;

/// Rows of tokens, [B, T] each: row after row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token ids.
    pub inputs: Vec<u32>,
    /// The id that follows each; [`IGNORE`] where it counts for nothing.
    pub targets: Vec<u32>,
    /// What the loss of each target is multiplied with, finite; empty if that is 1 everywhere.
    pub weights: Vec<f32>,
    /// Where in its row the document of each token begins; empty if each row is one document.
    pub begins: Vec<u32>,
}

impl Batch {
    /// Appends the rows of another batch of rows of `context_length` inputs.
    pub fn append(&mut self, rows: &Batch, context_length: usize) {
        let before = self.inputs.len();
        self.inputs.extend_from_slice(&rows.inputs);
        self.targets.extend_from_slice(&rows.targets);
        // What is left out where nothing says otherwise is written out next to rows that say something.
        if !self.weights.is_empty() || !rows.weights.is_empty() {
            self.weights.resize(before, 1.0);
            self.weights.extend_from_slice(&rows.weights);
            self.weights.resize(self.targets.len(), 1.0);
        }
        if !self.begins.is_empty() || !rows.begins.is_empty() {
            self.begins.resize(before, 0);
            self.begins.extend_from_slice(&rows.begins);
            self.begins.resize(self.inputs.len(), 0);
        }
        debug_assert!(self.inputs.len().is_multiple_of(context_length) && self.targets.len() == self.inputs.len());
    }

    /// Targets that count.
    pub fn counted(&self) -> u64 {
        self.targets.iter().filter(|&&target| target != IGNORE).count() as u64
    }

    /// The weights of the targets that count, added in order; their number where there are no weights.
    pub fn weight(&self) -> f64 {
        if self.weights.is_empty() {
            return self.counted() as f64;
        }
        let counted = self.targets.iter().zip(&self.weights).filter(|(target, _)| **target != IGNORE);
        counted.fold(0.0, |sum, (_, &weight)| sum + f64::from(weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_and_without_weights_meet() {
        let plain = Batch { inputs: vec![1, 2], targets: vec![2, IGNORE], ..Batch::default() };
        let weighted = Batch { weights: vec![0.5, 0.25], begins: vec![0, 1], ..plain.clone() };
        let mut all = Batch::default();
        all.append(&plain, 2);
        assert_eq!(all, plain);
        all.append(&weighted, 2);
        all.append(&plain, 2);
        assert_eq!(all.weights, [1.0, 1.0, 0.5, 0.25, 1.0, 1.0]);
        assert_eq!(all.begins, [0, 0, 0, 1, 0, 0]);
        assert_eq!((all.counted(), all.weight(), plain.weight(), weighted.weight()), (3, 2.5, 1.0, 0.5));
    }
}
