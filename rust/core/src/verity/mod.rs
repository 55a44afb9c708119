//! fs-verity file digests: Linux's Merkle tree over a file's blocks, and the descriptor hashed over its root.
//!
//! Source: the kernel's `Documentation/filesystems/fsverity.rst`, "File digest computation".

mod digest;
mod hasher;

pub use digest::{Algorithm, Digest, ParseDigestError};
pub use hasher::{Params, ParamsError, VerityHasher, digest_bytes, digest_reader};
