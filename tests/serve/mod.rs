//! The server in process, the commands `taper serve` and `taper chat` as a user meets them.

mod api;
mod chat;
mod client;
mod command;
mod limits;
mod load;
