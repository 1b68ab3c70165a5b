//! GPT-2's printable alphabet: one character for each of the 256 bytes.
//!
//! Tokenizer files are JSON, and JSON holds text, not bytes. GPT-2 (Radford et al., 2019, `encoder.py`) therefore writes
//! each byte as a visible character: the printable bytes of Latin-1 stand for themselves, and the other 68 (controls,
//! blanks, the soft hyphen) for the characters from U+0100 on, in order. So a leading blank reads `Ġ` in every vocabulary.
//! The order of the 256 characters by code point is GPT-2's order of the 256 byte tokens.

/// Whether byte `b` stands for itself in the alphabet.
const fn printable(b: u8) -> bool {
    matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character of each byte.
const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let (mut b, mut shifted) = (0usize, 0u32);
    while b < 256 {
        chars[b] = if printable(b as u8) {
            b as u8 as char
        } else {
            shifted += 1;
            match char::from_u32(255 + shifted) {
                Some(c) => c,
                None => unreachable!(),
            }
        };
        b += 1;
    }
    chars
};

/// The byte of each character below U+0144, or `None`.
const BYTES: [Option<u8>; 324] = {
    let mut bytes = [None; 324];
    let mut b = 0;
    while b < 256 {
        bytes[CHARS[b] as usize] = Some(b as u8);
        b += 1;
    }
    bytes
};

/// The character that stands for `byte`.
pub(super) fn byte_to_char(byte: u8) -> char {
    CHARS[byte as usize]
}

/// The byte that `c` stands for, if it belongs to the alphabet.
pub(super) fn char_to_byte(c: char) -> Option<u8> {
    BYTES.get(c as usize).copied().flatten()
}

/// A token's bytes as the string that stands for them in vocab.json.
pub(super) fn bytes_to_string(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| byte_to_char(b)).collect()
}

/// The bytes that a string of vocab.json stands for; `None` if it has a character outside the alphabet.
pub(super) fn string_to_bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(char_to_byte).collect()
}

/// The 256 bytes in GPT-2's order: the order of their characters.
pub(super) fn gpt2_byte_order() -> [u8; 256] {
    let mut order: [u8; 256] = std::array::from_fn(|i| i as u8);
    order.sort_by_key(|&b| byte_to_char(b));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known from the published vocabulary: blank is Ġ, newline is Ċ, "!" is id 0, and id 188 is the byte 0.
    #[test]
    fn agrees_with_the_published_alphabet() {
        assert_eq!(bytes_to_string(b" a\n\x00\xad\xff"), "ĠaĊĀŃÿ");
        assert_eq!(gpt2_byte_order()[0], b'!');
        assert_eq!(gpt2_byte_order()[188], 0);
        for b in 0..=255 {
            assert_eq!(char_to_byte(byte_to_char(b)), Some(b));
        }
        assert_eq!(string_to_bytes("▁a"), None);
        assert_eq!(char_to_byte(' '), None);
    }
}
