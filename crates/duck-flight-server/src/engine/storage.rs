//! The database on its disk: the file, its log, and what lies beside both.
//!
//! [`open`] is where a start begins: it attaches the file ([`attach`]), looks through what a kill has left in the log
//! ([`torn`], [`salvage`], both by [`log_entries`]) and half written in the file ([`images`]), and limits what queries spill
//! ([`spilled`]). From then on [`mark`] notes what is acknowledged, [`checkpoint`] keeps the log short when [`bell`] rings, [`room`]
//! watches the disk, and [`health`] says whether all of it can still be used.

pub(super) mod attach;
pub(super) mod bell;
pub(super) mod checkpoint;
pub(super) mod checksum;
pub(super) mod facts;
pub(super) mod health;
pub(super) mod images;
pub(super) mod log_entries;
pub(super) mod mark;
pub(super) mod open;
pub(super) mod room;
pub(super) mod salvage;
pub(super) mod spilled;
pub(super) mod torn;
