//! What a digest depends on besides the data.

use super::{Algorithm, Digest};

/// Hash function, block size and salt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    algorithm: Algorithm,
    block_bits: u8,
    salt: Vec<u8>,
}

/// Parameters that the kernel would refuse too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamsError {
    /// Block sizes are powers of two from 1024 to 65536.
    #[error("block size {block_bytes} is not a power of two between 1024 and 65536")]
    BlockSize {
        /// As given, in bytes.
        block_bytes: u32,
    },
    /// `struct fsverity_descriptor` has room for 32 bytes.
    #[error("salt of {len} bytes is longer than 32")]
    SaltLength {
        /// As given, in bytes.
        len: usize,
    },
}

impl Params {
    /// Checks and stores.
    ///
    /// # Errors
    /// [`ParamsError`].
    pub fn new(algorithm: Algorithm, block_bytes: u32, salt: &[u8]) -> Result<Self, ParamsError> {
        if !block_bytes.is_power_of_two() || !(1024..=65536).contains(&block_bytes) {
            return Err(ParamsError::BlockSize { block_bytes });
        }
        if salt.len() > 32 {
            return Err(ParamsError::SaltLength { len: salt.len() });
        }
        let block_bits = u8::try_from(block_bytes.trailing_zeros()).unwrap_or(16);
        Ok(Self { algorithm, block_bits, salt: salt.to_vec() })
    }

    /// What composefs uses: 4096-byte blocks, no salt.
    #[must_use]
    pub fn composefs(algorithm: Algorithm) -> Self {
        Self { algorithm, block_bits: 12, salt: Vec::new() }
    }

    /// Hash function.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Block size in bytes.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        1 << self.block_bits
    }

    /// What is hashed before every block: the salt, padded with zeros to the hash's own block size.
    pub(super) fn prefix(&self) -> Vec<u8> {
        let mut prefix = self.salt.clone();
        prefix.resize(self.salt.len().next_multiple_of(self.algorithm.hash_block_bytes()), 0);
        prefix
    }

    /// Appends `struct fsverity_descriptor`, [`DESCRIPTOR_BYTES`] bytes; `root` is `None` for an empty file.
    pub(super) fn append_descriptor(&self, size_bytes: u64, root: Option<&Digest>, out: &mut Vec<u8>) {
        let start = out.len();
        let salt_len = u8::try_from(self.salt.len()).unwrap_or(32);
        out.extend([1, self.algorithm.kernel_id(), self.block_bits, salt_len, 0, 0, 0, 0]);
        out.extend(size_bytes.to_le_bytes());
        out.extend(root.map_or(&[][..], Digest::as_bytes));
        out.resize(start.saturating_add(80), 0);
        out.extend(&self.salt);
        out.resize(start.saturating_add(DESCRIPTOR_BYTES), 0);
    }
}

/// Size of `struct fsverity_descriptor`; a multiple of both hashes' block sizes.
pub(super) const DESCRIPTOR_BYTES: usize = 256;
