//! fs-verity file digests: Linux's Merkle tree over a file's blocks, and the descriptor hashed over its root.
//!
//! [`digest_file`] for a file of any size, [`digest_many`] for many small contents, [`VerityHasher`] for a stream;
//! all of them hash through [`BlockHasher`], which fills the processor's vector lanes.
//!
//! Source: the kernel's `Documentation/filesystems/fsverity.rst`, "File digest computation".

mod blocks;
mod digest;
mod file;
mod hasher;
mod many;
mod params;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)] // a failing test may panic
mod tests;

pub use blocks::BlockHasher;
pub use digest::{Algorithm, Digest, ParseDigestError};
pub use file::{default_threads, digest_file};
pub use hasher::{VerityHasher, digest_bytes, digest_reader};
pub use many::digest_many;
pub use params::{Params, ParamsError};
