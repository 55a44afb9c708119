//! Hashing blocks of a Merkle tree, as many side by side as the processor has lanes.

use bootc_fast_sys::lanes::{Backend, Sha256Lanes, Sha512Lanes};

use super::params::DESCRIPTOR_BYTES;
use super::{Algorithm, Digest, Params};

/// A hash function over messages of one length, after a common prefix.
#[derive(Debug, Clone)]
enum Lanes {
    Sha256(Sha256Lanes),
    Sha512(Sha512Lanes),
}

impl Lanes {
    fn new(backend: Backend, algorithm: Algorithm, prefix: &[u8]) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256Lanes::new(backend, prefix)),
            Algorithm::Sha512 => Self::Sha512(Sha512Lanes::new(backend, prefix)),
        }
    }

    fn hash(&self, messages: &[&[u8]], out: &mut Vec<u8>) {
        match self {
            Self::Sha256(lanes) => lanes.hash(messages, out),
            Self::Sha512(lanes) => lanes.hash(messages, out),
        }
    }
}

/// Hashes blocks and descriptors with one set of parameters.
///
/// Blocks of one file, of one level and of different files are independent: whatever there is to hash is given in
/// one call, and fills the lanes.
#[derive(Debug, Clone)]
pub struct BlockHasher {
    params: Params,
    blocks: Lanes,
    descriptors: Lanes,
}

impl BlockHasher {
    /// With the fastest back end of this processor.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self::with_backend(params, Backend::best())
    }

    /// With a given back end, for comparisons.
    ///
    /// # Panics
    /// If this processor lacks it.
    #[must_use]
    pub fn with_backend(params: Params, backend: Backend) -> Self {
        Self {
            blocks: Lanes::new(backend, params.algorithm(), &params.prefix()),
            descriptors: Lanes::new(backend, params.algorithm(), &[]),
            params,
        }
    }

    /// What the digests depend on.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Appends the digest of every block of `data` to `out`; a last, partial block counts as padded with zeros.
    pub fn hash_data(&self, data: &[u8], out: &mut Vec<u8>) {
        let (full, rest) = data.split_at(data.len() & !self.params.block_bytes().saturating_sub(1));
        let padded = self.pad(rest);
        let mut blocks: Vec<&[u8]> = full.chunks_exact(self.params.block_bytes()).collect();
        if !rest.is_empty() {
            blocks.push(&padded);
        }
        self.hash_blocks(&blocks, out);
    }

    /// Appends the digest of every block to `out`; all are of the full block size.
    pub(super) fn hash_blocks(&self, blocks: &[&[u8]], out: &mut Vec<u8>) {
        self.blocks.hash(blocks, out);
    }

    fn pad(&self, partial: &[u8]) -> Vec<u8> {
        if partial.is_empty() {
            return Vec::new();
        }
        let mut padded = Vec::with_capacity(self.params.block_bytes());
        padded.extend_from_slice(partial);
        padded.resize(self.params.block_bytes(), 0);
        padded
    }

    /// The file digests of trees whose sizes and roots are known; no root is that of an empty file.
    pub(super) fn finish(&self, files: impl Iterator<Item = (u64, Option<Digest>)>) -> Vec<Digest> {
        let mut descriptors = Vec::new();
        files.for_each(|(size, root)| self.params.append_descriptor(size, root.as_ref(), &mut descriptors));
        let messages: Vec<&[u8]> = descriptors.chunks_exact(DESCRIPTOR_BYTES).collect();
        let mut out = Vec::new();
        self.descriptors.hash(&messages, &mut out);
        out.chunks_exact(self.params.algorithm().digest_bytes())
            .map(|bytes| self.read_digest(bytes))
            .collect()
    }

    /// The file digest of one tree.
    pub(super) fn finish_one(&self, size_bytes: u64, root: Option<&Digest>) -> Digest {
        let (mut descriptor, mut out) = (Vec::new(), Vec::new());
        self.params.append_descriptor(size_bytes, root, &mut descriptor);
        self.descriptors.hash(&[&descriptor], &mut out);
        self.read_digest(&out)
    }

    /// The digest that a level of one block is; `None` of an empty one.
    pub(super) fn read_root(&self, level: &[u8]) -> Option<Digest> {
        (!level.is_empty()).then(|| self.read_digest(level))
    }

    /// Takes the bytes of one digest.
    fn read_digest(&self, bytes: &[u8]) -> Digest {
        fn copy<const N: usize>(bytes: &[u8]) -> [u8; N] {
            let mut copied = [0; N];
            copied.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            copied
        }
        match self.params.algorithm() {
            Algorithm::Sha256 => Digest::Sha256(copy(bytes)),
            Algorithm::Sha512 => Digest::Sha512(copy(bytes)),
        }
    }
}
