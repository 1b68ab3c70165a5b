//! Any valid UTF-8 has the same ids in our encoder as in the `tokenizers` and `tiktoken-rs` crates.

#![no_main]

#[path = "../../tests/tokenizer/differential.rs"]
mod differential;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        differential::check(text);
    }
});
