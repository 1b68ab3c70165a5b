//! The access token, which nobody ever sees.
//!
//! The text leaves this type in one way only, as the value of an `Authorization` header, and that is used in one place
//! (`http`), which sends it to the Hub's own origin and nowhere else. Printing it, by accident or in a panic, prints a
//! placeholder; [`Token::hide_in`] takes it out of what a server says.

use std::fmt;

use crate::error::{Error, Result};

/// An access token of the Hub.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// What is shown instead.
const HIDDEN: &str = "[token]";

impl Token {
    /// A token from what stands in a variable or file; `None` if that is blank.
    ///
    /// # Errors
    /// `Usage` if it holds what no token holds; the text is not shown. `source` is where it came from.
    pub fn parse(text: &str, source: &str) -> Result<Option<Token>> {
        let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Error::usage(format!(
                "what {source} holds is not an access token: it has blanks or other characters that no token has"
            )));
        }
        Ok(Some(Token(text.to_string())))
    }

    /// The value of an `Authorization` header.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// The text with every occurrence of the token taken out.
    pub(super) fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, HIDDEN)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let token = Token::parse(" hf_secret\n", "HF_TOKEN").unwrap().unwrap();
        assert_eq!(format!("{token} {token:?} {:?}", Some(&token)), "[token] [token] Some([token])");
        assert_eq!(token.header(), "Bearer hf_secret");
        assert_eq!(token.hide_in("you sent hf_secret!"), "you sent [token]!");
        assert_eq!(Token::parse("\r\n", "HF_TOKEN").unwrap(), None);
        let error = Token::parse("two words", "HF_TOKEN").unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("words"), "{error}");
    }
}
