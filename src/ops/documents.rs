//! Documents that stand side by side in one row: attention sees none but its own, and positions start again in each.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Where the document of each token begins: u32 [B, T], token `t` of a row belonging to the document that begins at
/// `begins[t]`. Key `j` is visible to query `i` iff `begins[i] <= j <= i`; the position of token `t` is `t - begins[t]`.
#[derive(Clone, Debug)]
pub struct Documents {
    host: Tensor,
    here: Tensor,
}

/// One document: a stretch of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The row.
    pub b: usize,
    /// Its first token.
    pub first: usize,
    /// Its tokens.
    pub len: usize,
}

impl Documents {
    /// Documents of `batch` rows of `time` tokens, with a copy on the device that computes.
    ///
    /// # Errors
    /// If the numbers do not describe stretches of rows, or memory cannot be had.
    ///
    /// # Panics
    /// If there is not one number for each token.
    pub fn new(begins: &[u32], batch: usize, time: usize, device: Device) -> Result<Documents> {
        assert_eq!(begins.len(), batch * time, "documents: one number for each token");
        for (row, begins) in begins.chunks_exact(time.max(1)).enumerate() {
            let fits = |t: usize| begins[t] == t as u32 || (t > 0 && begins[t] == begins[t - 1]);
            if let Some(t) = (0..time).find(|&t| !fits(t)) {
                return Err(Error::Training(format!(
                    "token {t} of row {row} says that its document begins at {}, which is no stretch of the row",
                    begins[t]
                )));
            }
        }
        let host = Tensor::from_u32(begins, &[batch, time])?;
        let here = host.to_device(device)?;
        Ok(Documents { host, here })
    }

    /// The numbers, in host memory.
    pub fn begins(&self) -> &[u32] {
        self.host.u32()
    }

    /// The numbers where the computation runs.
    pub fn tensor(&self) -> &Tensor {
        &self.here
    }

    /// The position of each token in its document, [B * T].
    pub fn positions(&self) -> Vec<u32> {
        let time = self.host.last() as u32;
        self.begins().iter().enumerate().map(|(i, begin)| i as u32 % time - begin).collect()
    }

    /// The documents, row by row. Without `documents` each of `batch` rows of `time` tokens is one.
    pub fn segments(documents: Option<&Documents>, batch: usize, time: usize) -> Vec<Segment> {
        let Some(documents) = documents else {
            return (0..batch).map(|b| Segment { b, first: 0, len: time }).collect();
        };
        assert_eq!(documents.host.shape(), [batch, time], "documents: shape of the batch");
        let mut segments: Vec<Segment> = Vec::new();
        for (b, begins) in documents.begins().chunks_exact(time.max(1)).enumerate() {
            for (t, &begin) in begins.iter().enumerate() {
                match segments.last_mut() {
                    Some(last) if begin as usize != t => last.len += 1,
                    _ => segments.push(Segment { b, first: t, len: 1 }),
                }
            }
        }
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_stretches_of_rows() {
        let documents = Documents::new(&[0, 0, 2, 0, 1, 1], 2, 3, Device::Cpu).unwrap();
        assert_eq!(documents.positions(), [0, 1, 0, 0, 0, 1]);
        let of = |b, first, len| Segment { b, first, len };
        let expected = [of(0, 0, 2), of(0, 2, 1), of(1, 0, 1), of(1, 1, 2)];
        assert_eq!(Documents::segments(Some(&documents), 2, 3), expected);
        assert_eq!(Documents::segments(None, 2, 3), [of(0, 0, 3), of(1, 0, 3)]);
        for wrong in [[0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 3, 3]] {
            assert!(Documents::new(&wrong, 1, 3, Device::Cpu).is_err(), "{wrong:?}");
        }
    }
}
