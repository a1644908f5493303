//! DuckDB's connections, the threads that work on them, and who may use which for how long.
//!
//! Whoever has something to run takes a place in the [`pool`], or a connection that a client keeps ([`lease`]). What runs can be
//! stopped ([`cancel`]), is given [`helpers`] where it has tasks for them, and does not stand in the way of others without doing
//! anything ([`patience`]). What is committed beside it, [`commits`] tells.

pub(super) mod cancel;
pub(super) mod commits;
pub(super) mod helpers;
pub(super) mod lease;
pub(super) mod patience;
pub(super) mod pool;
