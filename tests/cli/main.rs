//! What a user meets outside of training: commands, configs, records of runs, reports, sweeps, plans, cards.

mod card;
mod commands;
mod config;
mod config_properties;
mod eval;
mod events;
mod logging;
#[path = "../common/models.rs"]
mod models;
mod plan;
#[path = "../common/program.rs"]
mod program;
mod report;
mod stats;
mod sweep;
mod watch;
