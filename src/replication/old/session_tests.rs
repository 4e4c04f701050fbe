//! A session with a repcached.
