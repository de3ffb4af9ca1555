//! Where security associations come from: static keys in files, one per direction.
//!
//! - [`key_file`] reads and makes key files, and refuses one that others could read.
//! - [`StaticKeys::read`] reads every key a policy names, and refuses a key that would serve twice.
//! - [`StateFolder`] and [`SequenceMark`] remember across restarts which sequence numbers may have been used, because
//!   a number used twice under one key breaks AES-GCM (RFC 4106 section 3.1). [`ReceivedMark`] remembers which have
//!   arrived, because a restart must not let old packets in again.
//! - [`StaticKeys::start`] brings them together as [`StaticConnection`]s with their SAs.
//!
//! [`StateFolder::remember_in`] adds memory that only lives as long as the machine runs, and makes a crash cost fewer numbers.
//!
//! All marks are in one file, so that any number of SAs become ready with one write to disk.
//!
//! Keys never appear in an error, in `Debug` output or in a log, and are erased from memory when dropped. This crate
//! never speaks to the network; negotiating keys is left to an IKE daemon.
#![forbid(unsafe_code)]

mod boot_memory;
mod byte_mark;
mod durable_folder;
mod fingerprint;
pub mod key_file;
mod keying_error;
mod lifetime;
mod mark_record;
mod marks;
mod outer_options;
mod received_mark;
mod sequence_mark;
mod state_folder;
mod static_connection;
mod static_keys;

pub use boot_memory::{BootPage, BootPages};
pub use durable_folder::make_folder;
pub use fingerprint::Fingerprint;
pub use key_file::KeyFileError;
pub use keying_error::{KeyingError, KeyingErrors, SaField};
pub use marks::MarkFileError;
pub use received_mark::ReceivedMark;
pub use sequence_mark::{MarkError, RESERVE, SequenceMark};
pub use state_folder::{StateFolder, StateFolderError};
pub use static_connection::StaticConnection;
pub use static_keys::{Holder, StaticKeys};
