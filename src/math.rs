//! Our own exp, log, sin.
