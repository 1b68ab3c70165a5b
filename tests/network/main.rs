//! Both sides of HTTP: the Hub's client against a hub of the tests, and the server that answers for a model.

#[path = "../hub/mod.rs"]
mod hub;
#[path = "../common/program.rs"]
mod program;
#[path = "../serve/mod.rs"]
mod serve;
