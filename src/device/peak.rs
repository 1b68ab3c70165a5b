//! What GPUs can do at most, from their makers' data sheets: the denominator of model FLOPs utilisation (MFU).

/// Dense FLOP/s, without sparsity, with f32 sums.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// bf16 and fp16 on tensor cores.
    pub bf16: f64,
    /// TF32 on tensor cores.
    pub tf32: f64,
    /// Plain f32.
    pub fp32: f64,
}

/// Part of the driver's name for a GPU, and TFLOP/s in bf16, TF32 and f32. The first that fits counts, so that longer names
/// stand before shorter ones.
const TABLE: &[(&str, [f64; 3])] = &[
    ("B200", [2250.0, 1125.0, 75.0]),
    ("H200", [989.4, 494.7, 66.9]),
    ("GH200", [989.4, 494.7, 66.9]),
    ("H100 PCIe", [756.0, 378.0, 51.0]),
    ("H100 NVL", [835.0, 417.5, 60.0]),
    ("H100", [989.4, 494.7, 66.9]),
    ("A100", [312.0, 156.0, 19.5]),
    ("A40", [149.7, 74.8, 37.4]),
    ("A30", [165.0, 82.0, 10.3]),
    ("A10", [125.0, 62.5, 31.2]),
    ("L40S", [362.0, 183.0, 91.6]),
    ("L40", [181.0, 90.5, 90.5]),
    ("L4", [121.0, 60.0, 30.3]),
    ("RTX 4090", [165.2, 82.6, 82.6]),
    ("RTX 3090", [71.0, 35.6, 35.6]),
];

/// The peaks of the GPU of this name; None for one that is not in the table.
pub fn of(name: &str) -> Option<Peaks> {
    // Whole words, so that an A100 is no A10.
    let is_word = |part: &str| {
        name.match_indices(part).any(|(at, _)| {
            let beside = |character: Option<char>| character.is_none_or(|c| !c.is_alphanumeric());
            beside(name[..at].chars().next_back()) && beside(name[at + part.len()..].chars().next())
        })
    };
    let (_, [bf16, tf32, fp32]) = TABLE.iter().find(|(part, _)| is_word(part))?;
    Some(Peaks { bf16: bf16 * 1e12, tf32: tf32 * 1e12, fp32: fp32 * 1e12 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_drivers_are_found_as_whole_words() {
        let bf16 = |name| of(name).map(|peaks| peaks.bf16);
        assert_eq!(bf16("NVIDIA A100-SXM4-80GB"), Some(312e12));
        assert_eq!(bf16("NVIDIA A10G"), None);
        assert_eq!(bf16("NVIDIA H100 80GB HBM3"), Some(989.4e12));
        assert_eq!(bf16("NVIDIA H100 PCIe"), Some(756e12));
        assert_eq!(bf16("NVIDIA L4"), Some(121e12));
        assert_eq!(bf16("an emulated GPU"), None);
    }
}
