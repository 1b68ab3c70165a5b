//! The `tape` room.
