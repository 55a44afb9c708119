//! The Merkle tree of a stream, in memory that does not grow with it.

use std::io::{self, Read};

use super::{BlockHasher, Digest, Params};
use crate::cancel::{Cancel, Cancelled, Ticker};

/// Blocks that a level gathers before they are hashed: fills the sixteen lanes of SHA-256 on AVX-512.
const GROUP_BLOCKS: usize = 16;

/// Bytes read at a time: a multiple of every block size, and small enough to still be in the second-level cache
/// when it is hashed.
pub(super) const READ_BYTES: usize = 1 << 18;

/// Digests a stream, holding at most `GROUP_BLOCKS` blocks a level and what the last call gave.
#[derive(Debug, Clone)]
pub struct VerityHasher {
    blocks: BlockHasher,
    /// Data not hashed yet; never empty once there was any, since the last block shows what the tree's height is.
    pending: Vec<u8>,
    /// Digests waiting to fill blocks, one buffer a level; not empty either.
    levels: Vec<Vec<u8>>,
    size_bytes: u64,
}

impl VerityHasher {
    /// An empty stream.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self::with_blocks(BlockHasher::new(params))
    }

    /// An empty stream over a hasher that is there already.
    #[must_use]
    pub fn with_blocks(blocks: BlockHasher) -> Self {
        Self { blocks, pending: Vec::new(), levels: Vec::new(), size_bytes: 0 }
    }

    fn group_bytes(&self) -> usize {
        self.blocks.params().block_bytes().saturating_mul(GROUP_BLOCKS)
    }

    /// Appends data.
    pub fn update(&mut self, mut data: &[u8]) {
        self.size_bytes = self.size_bytes.saturating_add(data.len() as u64);
        while !data.is_empty() {
            if self.pending.len() == self.group_bytes() {
                let full = std::mem::take(&mut self.pending);
                self.hash_level_zero(&full);
                self.pending = full;
                self.pending.clear();
            }
            if self.pending.is_empty() {
                // Whole groups straight from the caller's memory, less the last byte's.
                let groups = data.len().saturating_sub(1) / self.group_bytes();
                let (now, later) = data.split_at(groups.saturating_mul(self.group_bytes()));
                self.hash_level_zero(now);
                data = later;
            }
            let room = self.group_bytes().saturating_sub(self.pending.len());
            let (now, later) = data.split_at(room.min(data.len()));
            self.pending.extend_from_slice(now);
            data = later;
        }
    }

    fn hash_level_zero(&mut self, data: &[u8]) {
        let mut digests = Vec::new();
        self.blocks.hash_data(data, &mut digests);
        self.push_digests(&digests);
    }

    /// Appends the digests of data blocks that were hashed elsewhere; [`VerityHasher::update`] was not used before.
    pub(super) fn push_data_digests(&mut self, size_bytes: u64, digests: &[u8]) {
        self.size_bytes = self.size_bytes.saturating_add(size_bytes);
        self.push_digests(digests);
    }

    /// Appends digests to the first level, and what then is full to those above.
    fn push_digests(&mut self, digests: &[u8]) {
        if digests.is_empty() {
            return;
        }
        let (group_bytes, block_bytes) = (self.group_bytes(), self.blocks.params().block_bytes());
        let mut carried = digests.to_vec();
        let mut level = 0usize;
        while !carried.is_empty() {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let Some(buffer) = self.levels.get_mut(level) else { return };
            buffer.append(&mut carried);
            if buffer.len() > group_bytes {
                let full = buffer.len().saturating_sub(1) / block_bytes;
                let kept = buffer.split_off(full.saturating_mul(block_bytes));
                self.blocks.hash_data(buffer, &mut carried);
                *buffer = kept;
            }
            level = level.saturating_add(1);
        }
    }

    /// The digest of all data so far.
    #[must_use]
    pub fn finish(mut self) -> Digest {
        let root = self.finish_tree();
        self.blocks.finish_one(self.size_bytes, root.as_ref())
    }

    /// The root; `None` of no data.
    fn finish_tree(&mut self) -> Option<Digest> {
        let mut carried = Vec::new();
        let pending = std::mem::take(&mut self.pending);
        self.blocks.hash_data(&pending, &mut carried);
        for mut buffer in std::mem::take(&mut self.levels) {
            buffer.append(&mut carried);
            self.blocks.hash_data(&buffer, &mut carried);
        }
        while carried.len() > self.blocks.params().algorithm().digest_bytes() {
            let buffer = std::mem::take(&mut carried);
            self.blocks.hash_data(&buffer, &mut carried);
        }
        self.blocks.read_root(&carried)
    }
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
    let mut buffer = vec![0u8; READ_BYTES];
    let mut ticker = Ticker::counting(cancel, 0);
    loop {
        ticker.tick().map_err(|cancelled: Cancelled| io::Error::other(cancelled))?;
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => {
                hasher.update(buffer.get(..read).unwrap_or_default());
                ticker.count(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
