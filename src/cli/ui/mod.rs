//! What commands show to a person: answers on standard output; messages, bars and charts next to it.

pub mod log;
pub mod print;
pub mod progress;
pub mod terminal;

pub(crate) use print::{print_bytes, print_json, print_line};
pub(crate) use terminal::{Terminal, bar, grouped, note, say, warn};
