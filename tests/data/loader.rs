//! Sequences from shards: positions, shuffling, windows.

use std::sync::Arc;

use super::layouts::llmc_u16;
use super::{says, write};
use proptest::prelude::*;
use taper::data::{Batch, Loader, ShardOptions, Shards, TokenStream, Window, eval_windows};

fn stream(tokens: u32) -> Arc<TokenStream> {
    Arc::new(TokenStream::from_tokens((0..tokens).collect(), tokens as usize))
}

fn sequence(loader: &Loader, index: u64) -> Vec<u32> {
    let mut rows = Batch::default();
    loader.append(index, &mut rows).unwrap();
    assert_eq!(
        (rows.inputs.len(), rows.inputs[1..].to_vec()),
        (loader.context_length(), rows.targets[..rows.inputs.len() - 1].to_vec())
    );
    rows.inputs.truncate(1);
    [rows.inputs, rows.targets].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_across_shards_are_reads_of_the_whole(
        lengths in prop::collection::vec(0usize..9, 1..8), start in 0usize..40, count in 0usize..40,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let whole: Vec<u16> = (0..lengths.iter().sum::<usize>() as u16).map(|i| i * 7 + 1).collect();
        let mut rest = &whole[..];
        for (number, &length) in lengths.iter().enumerate() {
            write(folder.path().join(format!("x_train_{number:02}.bin")), llmc_u16(&rest[..length]));
            rest = &rest[length..];
        }
        let shards = Shards::open(&folder.path().display().to_string(), &ShardOptions::default()).unwrap();
        let stream = shards.into_streams(1 << 16).0;
        prop_assert_eq!(stream.len(), whole.len() as u64);
        let start = start.min(whole.len());
        let count = count.min(whole.len() - start);
        let mut tokens = vec![0; count];
        stream.read(start as u64, &mut tokens).unwrap();
        prop_assert!(tokens.iter().copied().eq(whole[start..start + count].iter().map(|&id| u32::from(id))));
        if start < whole.len() {
            let (path, offset) = stream.locate(start as u64).unwrap();
            let bytes = std::fs::read(path).unwrap();
            let at = 1024 + 2 * offset as usize;
            prop_assert_eq!(u16::from_le_bytes([bytes[at], bytes[at + 1]]), whole[start]);
        }
    }

    #[test]
    fn every_token_but_the_first_is_predicted_once(tokens in 0u64..200, context in 1usize..20) {
        let mut next = 0;
        for window in eval_windows(tokens, context) {
            prop_assert_eq!(window.start, next);
            prop_assert!((1..=context).contains(&window.inputs));
            next += window.inputs as u64;
        }
        prop_assert_eq!(next, tokens.saturating_sub(1));
    }
}

#[test]
fn in_order_windows_follow_each_other_and_share_a_token() {
    // 11 tokens, 3 inputs: windows at 0, 3, 6 use tokens 0..=9; token 10 is left over.
    let loader = Loader::new(stream(11), 3, false, 0).unwrap();
    assert_eq!((loader.sequences_per_epoch(), loader.leftover_tokens()), (3, 1));
    let sequences: Vec<_> = (0..4).map(|index| sequence(&loader, index)).collect();
    assert_eq!(sequences, [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9], [0, 1, 2, 3]]);
    // The same with 10 tokens, exactly full.
    let loader = Loader::new(stream(10), 3, false, 0).unwrap();
    assert_eq!((loader.sequences_per_epoch(), loader.leftover_tokens()), (3, 0));
}

#[test]
fn shuffled_epochs_hold_every_window_once_in_different_orders() {
    let order = |seed, epoch: u64| -> Vec<u64> {
        let loader = Loader::new(stream(101), 4, true, seed).unwrap();
        (0..25).map(|i| loader.start_of(epoch * 25 + i)).collect()
    };
    let windows: Vec<u64> = (0..25).map(|i| 4 * i).collect();
    for (seed, epoch) in [(1, 0), (1, 1), (2, 0), (1, 1_000_000)] {
        let mut sorted = order(seed, epoch);
        assert_ne!(sorted, windows);
        sorted.sort_unstable();
        assert_eq!(sorted, windows);
    }
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
    let loader = Loader::new(stream(101), 4, true, 1).unwrap();
    let start = loader.start_of(30) as u32;
    assert_eq!(sequence(&loader, 30), (start..start + 5).collect::<Vec<_>>());
}

#[test]
fn a_text_shorter_than_a_sequence_is_refused_with_both_numbers() {
    says(Loader::new(stream(8), 8, true, 0), &["has 8 tokens", "needs 9", "model.context_length", "val_fraction"]);
    says(Loader::new(stream(0), 8, true, 0), &["has 0 tokens"]);
    assert_eq!(Loader::new(stream(9), 8, true, 0).unwrap().sequences_per_epoch(), 1);
}

#[test]
fn evaluation_windows_end_with_a_shorter_one() {
    let windows: Vec<_> = eval_windows(11, 4).collect();
    let expected = [(0, 4), (4, 4), (8, 2)].map(|(start, inputs)| Window { start, inputs });
    assert_eq!(windows, expected);
}
