//! Text as it may be shown: cut before stop strings, which may come in pieces.

use std::borrow::Cow;

/// Text so far, shown up to where a stop string might still begin.
pub(super) struct Output<'a> {
    /// The text; nothing of a stop string or beyond.
    pub text: String,
    shown: usize,
    stop: Cow<'a, [String]>,
}

impl<'a> Output<'a> {
    /// No text yet; it will end before any of `stop`, empty ones aside.
    pub(super) fn new(stop: impl Into<Cow<'a, [String]>>) -> Output<'a> {
        Output { text: String::new(), shown: 0, stop: stop.into() }
    }
}

impl Output<'_> {
    /// Appends a piece; true if a stop string appeared (the text is cut before it).
    pub(super) fn push(&mut self, piece: &str, on_text: &mut dyn FnMut(&str)) -> bool {
        self.text.push_str(piece);
        let found = self
            .stop
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| self.text[self.shown..].find(stop))
            .min();
        if let Some(place) = found {
            self.text.truncate(self.shown + place);
            return true;
        }
        // Hold back a tail that could be the beginning of a stop string.
        let tail = &self.text[self.shown..];
        let held = tail
            .char_indices()
            .map(|(at, _)| at)
            .find(|&at| self.stop.iter().any(|stop| stop.starts_with(&tail[at..])));
        let end = self.shown + held.unwrap_or(tail.len());
        self.show(end, on_text);
        false
    }

    /// Shows what was held back.
    pub(super) fn flush(&mut self, on_text: &mut dyn FnMut(&str)) {
        self.show(self.text.len(), on_text);
    }

    fn show(&mut self, end: usize, on_text: &mut dyn FnMut(&str)) {
        if end > self.shown {
            on_text(&self.text[self.shown..end]);
            self.shown = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_strings_are_never_shown_even_in_pieces() {
        let stop = ["\n\n".to_string(), "END".to_string()];
        let mut out = Output::new(&stop[..]);
        let mut shown = String::new();
        let mut stopped = false;
        for piece in ["one\n", "two E", "N", "O\n", "\nthree"] {
            stopped = out.push(piece, &mut |text| shown.push_str(text));
            assert!(!shown.ends_with('E') && !shown.ends_with("EN"));
        }
        assert!(stopped);
        out.flush(&mut |text| shown.push_str(text));
        assert_eq!(shown, "one\ntwo ENO");
    }
}
