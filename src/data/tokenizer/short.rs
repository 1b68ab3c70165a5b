//! Words of at most fifteen bytes as numbers, and what hashes them.
//!
//! Nearly every word of a text is that short. As a number it is compared by one instruction or two, hashed by one
//! multiplication, and read from the text by one load: no loop over its bytes, and so no branch that depends on its length.

use std::ops::Range;

/// Words longer than this have no number.
pub(super) const SHORT: usize = 15;

/// The low bytes that a word of each length fills.
const MASKS: [u128; SHORT + 1] = {
    let mut masks = [0; SHORT + 1];
    let mut length = 0;
    while length <= SHORT {
        masks[length] = (1u128 << (8 * length)) - 1;
        length += 1;
    }
    masks
};

/// The number of the word at `range` of `text`: its bytes, the first the lowest, and its length in the highest byte, so that
/// no two words share one and only the empty word has 0. `None` for a word that is too long.
#[inline(always)]
pub(super) fn key(text: &[u8], range: Range<usize>) -> Option<u128> {
    let length = range.len();
    if length > SHORT {
        return None;
    }
    let bytes = match text.get(range.start..).and_then(|rest| rest.first_chunk()) {
        Some(chunk) => u128::from_le_bytes(*chunk) & MASKS[length],
        None => {
            let mut padded = [0; 16];
            padded[..length].copy_from_slice(&text[range]);
            u128::from_le_bytes(padded)
        }
    };
    Some(bytes | (length as u128) << 120)
}

/// The bytes of the word that has this number, and how many they are.
pub(super) fn bytes(key: u128) -> ([u8; 16], usize) {
    (key.to_le_bytes(), (key >> 120) as usize)
}

/// Spreads the numbers over 64 bits. It decides speed only.
#[inline(always)]
pub(super) fn hash(key: u128) -> u64 {
    const A: u64 = 0x9E37_79B9_7F4A_7C15;
    const B: u64 = 0xC2B2_AE3D_27D4_EB4F;
    let product = u128::from(key as u64 ^ A) * u128::from((key >> 64) as u64 ^ B);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_comes_back_from_its_number_wherever_it_stands() {
        let text: Vec<u8> = (0..64).map(|i| i * 37 % 251).collect();
        for start in 0..64 {
            for end in start..64 {
                let word = &text[start..end];
                let Some(key) = key(&text, start..end) else {
                    assert!(word.len() > SHORT);
                    continue;
                };
                let (bytes, length) = bytes(key);
                assert_eq!(&bytes[..length], word);
            }
        }
    }
}
