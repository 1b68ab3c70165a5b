//! The `nn` room.
