//! The `events` room.
