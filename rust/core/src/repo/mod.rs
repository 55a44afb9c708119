//! A composefs repository, written: objects named by their fs-verity digests, images, `meta.json`; and whole root
//! trees taken into it, from a directory or a tar archive.
//!
//! The form is that of composefs-rs 0.9 (`repository_format.rs`); bootc's own crates read it.

mod directory;
mod draft;
mod error;
mod meta;
mod object;
mod tar_reader;
mod tarball;
#[cfg(test)]
mod tests;
mod writer;

pub use error::RepoError;
pub use writer::{IngestOptions, Repository};
