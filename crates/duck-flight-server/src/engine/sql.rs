//! The text of statements: what it says ([`tokens`]), what it does ([`deed`]), whether a client may run it ([`admission`], [`files`]),
//! and whether its plan may be kept ([`frozen`]).

pub(super) mod admission;
pub(super) mod deed;
pub(super) mod files;
pub(super) mod frozen;
pub(super) mod tokens;
