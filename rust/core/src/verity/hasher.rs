//! The incremental Merkle-tree hasher: portable, one block at a time. `lanes` (to come) hashes many at once.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256, Sha512};

use super::{Algorithm, Digest};
use crate::cancel::{Cancel, Cancelled, Ticker};

/// What a digest depends on besides the data.
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

    fn hash_block(&self, block: &[u8]) -> Digest {
        let padding = vec![0u8; block_padding(self.salt.len(), self.algorithm.hash_block_bytes())];
        let zeros = vec![0u8; self.block_bytes().saturating_sub(block.len())];
        self.hash_parts(&[&self.salt, &padding, block, &zeros])
    }

    fn hash_parts(&self, parts: &[&[u8]]) -> Digest {
        match self.algorithm {
            Algorithm::Sha256 => {
                let mut hasher = Sha256::new();
                parts.iter().for_each(|part| hasher.update(part));
                Digest::Sha256(hasher.finalize().into())
            }
            Algorithm::Sha512 => {
                let mut hasher = Sha512::new();
                parts.iter().for_each(|part| hasher.update(part));
                Digest::Sha512(hasher.finalize().into())
            }
        }
    }
}

fn block_padding(len: usize, block: usize) -> usize {
    len.next_multiple_of(block).saturating_sub(len)
}

/// Digests a stream, holding one partial block a level.
#[derive(Debug, Clone)]
pub struct VerityHasher {
    params: Params,
    partial: Vec<u8>,
    /// Digests waiting to fill a block, one buffer a level.
    levels: Vec<Vec<u8>>,
    size_bytes: u64,
}

impl VerityHasher {
    /// An empty stream.
    #[must_use]
    pub fn new(params: Params) -> Self {
        let partial = Vec::with_capacity(params.block_bytes());
        Self { params, partial, levels: Vec::new(), size_bytes: 0 }
    }

    /// Appends data.
    pub fn update(&mut self, mut data: &[u8]) {
        self.size_bytes = self.size_bytes.saturating_add(data.len() as u64);
        while !data.is_empty() {
            // A full block is hashed only when more data follows or at the end: a file of exactly one block
            // has a tree of no levels, and its data block's hash is the root.
            if self.partial.len() == self.params.block_bytes() {
                let digest = self.params.hash_block(&self.partial);
                self.partial.clear();
                self.push(0, digest);
            }
            let room = self.params.block_bytes().saturating_sub(self.partial.len());
            let (now, later) = data.split_at(room.min(data.len()));
            self.partial.extend_from_slice(now);
            data = later;
        }
    }

    fn push(&mut self, mut level: usize, mut digest: Digest) {
        loop {
            if level == self.levels.len() {
                self.levels.push(Vec::with_capacity(self.params.block_bytes()));
            }
            let Some(buffer) = self.levels.get_mut(level) else { return };
            if buffer.len() < self.params.block_bytes() {
                buffer.extend_from_slice(digest.as_bytes());
                return;
            }
            let full = self.params.hash_block(buffer);
            buffer.clear();
            buffer.extend_from_slice(digest.as_bytes());
            digest = full;
            level = level.saturating_add(1);
        }
    }

    /// The digest of all data so far.
    #[must_use]
    pub fn finish(mut self) -> Digest {
        let root = if self.size_bytes == 0 {
            None
        } else {
            let mut digest = self.params.hash_block(&self.partial);
            let mut level = 0usize;
            while level < self.levels.len() {
                self.push(level, digest);
                let buffer = self.levels.get(level).map_or(&[][..], Vec::as_slice);
                digest = self.params.hash_block(buffer);
                level = level.saturating_add(1);
            }
            Some(digest)
        };
        self.params.hash_parts(&[&descriptor(&self.params, self.size_bytes, root.as_ref())])
    }
}

/// `struct fsverity_descriptor`, 256 bytes.
fn descriptor(params: &Params, size_bytes: u64, root: Option<&Digest>) -> Vec<u8> {
    let salt_len = u8::try_from(params.salt.len()).unwrap_or(32);
    let mut out = vec![1, params.algorithm.kernel_id(), params.block_bits, salt_len, 0, 0, 0, 0];
    out.extend_from_slice(&size_bytes.to_le_bytes());
    out.extend_from_slice(root.map_or(&[][..], Digest::as_bytes));
    out.resize(80, 0);
    out.extend_from_slice(&params.salt);
    out.resize(256, 0);
    out
}

/// Digest of bytes in memory.
#[must_use]
pub fn digest_bytes(params: &Params, data: &[u8]) -> Digest {
    let mut hasher = VerityHasher::new(params.clone());
    hasher.update(data);
    hasher.finish()
}

/// Digest of everything a reader yields.
///
/// # Errors
/// What the reader returns, or [`io::ErrorKind::Other`] holding [`Cancelled`].
pub fn digest_reader(params: &Params, reader: &mut dyn Read, cancel: &dyn Cancel) -> io::Result<Digest> {
    let mut hasher = VerityHasher::new(params.clone());
    let mut buffer = vec![0u8; 1 << 16];
    let mut ticker = Ticker::new(cancel);
    loop {
        ticker.tick().map_err(|cancelled: Cancelled| io::Error::other(cancelled))?;
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
