//! `ops::candidates`: the largest logits and the sums, against sorting the whole row.

use super::oracle::normal;
use taper::ops::candidates::{CAPACITY, Candidates, WANTED, candidates};
use taper::tensor::Tensor;

fn of(rows: &[f32], stride: usize, vocabulary: usize, inverse: &[f32]) -> Vec<Candidates> {
    let logits = Tensor::from_f32(rows, &[inverse.len(), stride]).unwrap();
    candidates(&logits, vocabulary, &Tensor::from_f32(inverse, &[inverse.len()]).unwrap()).unwrap()
}

#[test]
fn candidates_are_the_largest_of_the_row_and_the_sums_are_the_softmaxs() {
    for (vocabulary, stride) in [(1, 4), (5, 5), (300, 320), (1024, 1024), (1025, 1025), (5003, 5008)] {
        // The columns beyond the vocabulary are larger than all others, and must not be seen.
        let mut rows: Vec<f32> = normal("logits", 2 * stride).iter().map(|x| 3.0 * x).collect();
        rows.chunks_exact_mut(stride).for_each(|row| row[vocabulary..].fill(100.0));
        for (found, (row, inverse)) in
            of(&rows, stride, vocabulary, &[1.0, 2.5]).iter().zip(rows.chunks_exact(stride).zip([1.0f64, 2.5]))
        {
            let mut expected: Vec<(u32, f32)> =
                row[..vocabulary].iter().enumerate().map(|(i, &x)| (i as u32, x)).collect();
            expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            assert!(found.whole && found.list.len() >= WANTED.min(vocabulary) && found.list.len() <= CAPACITY);
            assert_eq!(found.list, expected[..found.list.len()], "vocabulary {vocabulary}");
            assert_eq!(found.max, expected[0].1);
            let sum = |inverse: f64| -> f64 {
                expected.iter().map(|&(_, x)| ((f64::from(x) - f64::from(found.max)) * inverse).exp()).sum()
            };
            assert!((found.sum / sum(1.0) - 1.0).abs() < 1e-12);
            assert!((found.tempered / sum(inverse) - 1.0).abs() < 1e-12);
        }
    }
}

#[test]
fn candidates_say_where_too_many_are_equal_and_where_one_is_no_number() {
    let equal = of(&vec![2.0; 3000], 3000, 3000, &[1.0]);
    assert!(!equal[0].whole && equal[0].list.is_empty());
    assert_eq!((equal[0].max, equal[0].sum), (2.0, 3000.0));
    let mut row = vec![1.0; 40];
    row[33] = f32::NAN;
    assert!(of(&row, 40, 40, &[1.0])[0].max.is_nan());
    assert!(!of(&row, 40, 33, &[1.0])[0].max.is_nan());
}
