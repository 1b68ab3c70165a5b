//! The three shard layouts, byte by byte, and every way they can be damaged.
//!
//! The layouts are written here by hand from their published descriptions: llm.c's `dev/data/data_common.py` (256 int32
//! words: magic 20240520, version 1, count, uint16 tokens; or 20240801, 7, count, uint32 tokens) and nanoGPT's
//! `prepare.py` (uint16 tokens and nothing else).

use std::path::Path;

use super::{says, write};
use proptest::prelude::*;
use taper::Result;
use taper::data::{Layout, Shard, ShardFormat, ShardOptions, Shards, TokenStream};

pub fn llmc_u16(tokens: &[u16]) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[0..4].copy_from_slice(&20_240_520i32.to_le_bytes());
    bytes[4..8].copy_from_slice(&1i32.to_le_bytes());
    bytes[8..12].copy_from_slice(&(tokens.len() as i32).to_le_bytes());
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    bytes
}

fn llmc_u32(tokens: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[0..4].copy_from_slice(&20_240_801i32.to_le_bytes());
    bytes[4..8].copy_from_slice(&7i32.to_le_bytes());
    bytes[8..12].copy_from_slice(&(tokens.len() as i32).to_le_bytes());
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    bytes
}

fn nanogpt(tokens: &[u16]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

fn all(stream: &TokenStream) -> Vec<u32> {
    let mut tokens = vec![0; stream.len() as usize];
    stream.read(0, &mut tokens).unwrap();
    tokens
}

fn open(input: impl AsRef<Path>) -> Result<Shards> {
    Shards::open(&input.as_ref().display().to_string(), &ShardOptions::default())
}

#[test]
fn published_fineweb_folders_work_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root.join("fineweb_val_000000.bin"), llmc_u16(&[50256, 7, 8]));
    write(root.join("fineweb_train_000002.bin"), llmc_u16(&[50256, 3]));
    write(root.join("fineweb_train_000001.bin"), llmc_u16(&[50256, 1, 2]));
    write(root.join("notes.txt"), "not a shard");
    let pattern = root.join("fineweb_*_*.bin").display().to_string();
    for shards in [open(root).unwrap(), open(pattern).unwrap()] {
        let (train, val) = shards.into_streams(50257);
        assert_eq!(all(&train), [50256, 1, 2, 50256, 3]);
        assert_eq!(all(&val.unwrap()), [50256, 7, 8]);
        assert_eq!(train.locate(3).unwrap(), (root.join("fineweb_train_000002.bin").as_path(), 0));
        assert_eq!(train.locate(5), None);
    }
    let one = open(root.join("fineweb_train_000002.bin")).unwrap();
    assert!(one.val.is_empty() && one.manifest.is_none() && one.train[0].tokens() == 2);
}

#[test]
fn large_vocabularies_and_headerless_files_work() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("big/a_train_0.bin"), llmc_u32(&[128_000, 70_000, 1]));
    let shards = open(folder.path().join("big")).unwrap();
    assert_eq!(shards.train[0].layout(), Layout::LlmcU32);
    assert_eq!(all(&shards.into_streams(128_256).0), [128_000, 70_000, 1]);

    write(folder.path().join("nano/train.bin"), nanogpt(&[5, 65_535, 0]));
    write(folder.path().join("nano/val.bin"), nanogpt(&[9]));
    let (train, val) = open(folder.path().join("nano")).unwrap().into_streams(65_536);
    assert_eq!((all(&train), all(&val.unwrap())), (vec![5, 65_535, 0], vec![9]));
    // Under another name only when asked for.
    let other = write(folder.path().join("nano2/tokens.bin"), nanogpt(&[5; 600]));
    says(open(&other), &["tokens.bin", "not a token shard", "nanogpt"]);
    assert_eq!(Shard::open(Path::new(&other), ShardFormat::NanoGpt).unwrap().tokens(), 600);
    // llm.c's header under nanoGPT's name is still llm.c's.
    let named = write(folder.path().join("c/train.bin"), llmc_u16(&[1, 2]));
    assert_eq!(Shard::open(Path::new(&named), ShardFormat::Auto).unwrap().layout(), Layout::LlmcU16);
}

#[test]
fn every_damage_to_a_shard_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x_train_0.bin");
    let whole = llmc_u16(&[1, 2, 3, 4]);
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        write(&path, bytes);
        Shard::open(&path, ShardFormat::Auto)
    };
    says(damaged(&|b| b[0] ^= 1), &["x_train_0.bin", "not a token shard", "20240521", "20240520"]);
    says(damaged(&|b| b[4] = 2), &["shard version 2", "version 1"]);
    says(damaged(&|b| b[11] = 0x80), &["promises -2147483644 tokens", "damaged"]);
    says(damaged(&|b| b[8] = 5), &["promises 5 tokens (1034 bytes)", "there are 1032 bytes", "truncated"]);
    says(damaged(&|b| b[8] = 3), &["promises 3 tokens (1030 bytes)", "there are 1032 bytes", "damaged"]);
    says(damaged(&|b| b[0..8].copy_from_slice(&llmc_u32(&[])[0..8])), &["promises 4 tokens (1040 bytes)"]);
    says(damaged(&|b| b[0..4].copy_from_slice(&llmc_u32(&[])[0..4])), &["shard version 1", "version 7"]);
    says(damaged(&|b| b.clear()), &["0 bytes", "1024", "truncated"]);
    for len in 0..whole.len() {
        says(damaged(&|b| b.truncate(len)), &["truncated"]);
    }
    says(damaged(&|b| b.push(0)), &["there are 1033 bytes"]);
    let odd = write(folder.path().join("odd/train.bin"), [1, 2, 3]);
    says(open(odd), &["3 bytes is no whole number of uint16 tokens"]);
}

#[test]
fn bad_folders_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    says(open(root), &["holds no token shards", "taper data prepare"]);
    says(open(root.join("none")), &["no token shards at", "none"]);
    says(open(root.join("none*.bin")), &["no token shards at"]);
    write(root.join("mixed/a_train_0.bin"), llmc_u16(&[1]));
    write(root.join("mixed/a_train_1.bin"), llmc_u32(&[1]));
    says(open(root.join("mixed")), &["a_train_1.bin", "LlmcU32", "LlmcU16"]);
}

#[test]
fn an_id_beyond_the_vocabulary_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("a_train_0.bin"), llmc_u16(&[1, 2, 3]));
    write(folder.path().join("a_train_1.bin"), llmc_u16(&[4, 300, 5]));
    let (train, _) = open(folder.path()).unwrap().into_streams(256);
    let mut tokens = [0; 4];
    train.read(0, &mut tokens).unwrap();
    assert_eq!(tokens, [1, 2, 3, 4]);
    says(train.read(1, &mut tokens), &["a_train_1.bin", "token 1 has the id 300", "256 ids"]);
    says(TokenStream::from_tokens(vec![1, 9], 9).read(0, &mut [0; 2]), &["token 1 has the id 9", "9 ids"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the first bytes are, a shard opens with exactly the tokens its size holds, or is refused; it never panics.
    #[test]
    fn any_header_is_read_or_refused(head in prop::collection::vec(any::<u8>(), 0..16), keep in 0usize..17, tail in 0usize..20) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x_train.bin");
        let mut bytes = llmc_u16(&[1, 2, 3]);
        let at = keep.min(head.len());
        bytes[at..head.len()].copy_from_slice(&head[at..]);
        bytes.truncate(bytes.len() - tail);
        let len = bytes.len();
        write(&path, bytes);
        if let Ok(shard) = Shard::open(&path, ShardFormat::Auto) {
            prop_assert_eq!(shard.payload().len(), len - 1024);
            let mut tokens = vec![0; shard.tokens() as usize];
            shard.read(0, &mut tokens);
            prop_assert_eq!(tokens, [1, 2, 3]);
        }
    }
}
