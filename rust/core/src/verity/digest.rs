//! The digest itself, and its text form.

use std::fmt;

/// Hash function of a Merkle tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `FS_VERITY_HASH_ALG_SHA256`.
    Sha256,
    /// `FS_VERITY_HASH_ALG_SHA512`; what bootc uses.
    Sha512,
}

impl Algorithm {
    /// Digest length in bytes.
    #[must_use]
    pub const fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Internal block size of the hash in bytes; a salt is zero-padded to it.
    #[must_use]
    pub const fn hash_block_bytes(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    /// Number in `struct fsverity_descriptor` and in overlayfs's metacopy xattr.
    #[must_use]
    pub const fn kernel_id(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
        }
    }

    /// The inverse of [`Algorithm::kernel_id`].
    #[must_use]
    pub const fn from_kernel_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::Sha256),
            2 => Some(Self::Sha512),
            _ => None,
        }
    }
}

/// A text that is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseDigestError {
    /// Neither 64 nor 128 characters.
    #[error("a digest has 64 or 128 hexadecimal characters, this has {len}")]
    Length {
        /// Characters found.
        len: usize,
    },
    /// A character that is not lower-case hex.
    #[error("character {index} of the digest is not a lower-case hexadecimal digit")]
    Character {
        /// Position of the first bad character.
        index: usize,
    },
}

/// An fs-verity digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// 32 bytes.
    Sha256([u8; 32]),
    /// 64 bytes.
    Sha512([u8; 64]),
}

impl Digest {
    /// The hash function; its length tells.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw bytes, 32 or 64.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// From raw bytes of the algorithm's length.
    #[must_use]
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Sha256 => bytes.try_into().ok().map(Self::Sha256),
            Algorithm::Sha512 => bytes.try_into().ok().map(Self::Sha512),
        }
    }

    /// From lower-case hex.
    ///
    /// # Errors
    /// [`ParseDigestError`]: the text becomes a path component, so nothing but hex may pass.
    pub fn from_hex(text: &str) -> Result<Self, ParseDigestError> {
        fn nibble(byte: u8) -> Option<u8> {
            match byte {
                b'0'..=b'9' => Some(byte - b'0'),
                b'a'..=b'f' => Some(byte - b'a' + 10),
                _ => None,
            }
        }
        let algorithm = match text.len() {
            64 => Algorithm::Sha256,
            128 => Algorithm::Sha512,
            len => return Err(ParseDigestError::Length { len }),
        };
        let mut bytes = Vec::with_capacity(text.len() / 2);
        let mut high = None;
        for (index, byte) in text.bytes().enumerate() {
            let value = nibble(byte).ok_or(ParseDigestError::Character { index })?;
            match high.take() {
                None => high = Some(value),
                Some(upper) => bytes.push(upper << 4 | value),
            }
        }
        Self::from_bytes(algorithm, &bytes).ok_or(ParseDigestError::Length { len: text.len() })
    }
}

impl Digest {
    /// Lower-case hex, written into `buffer` without an allocation: dumps of a million files spend most of their
    /// time here.
    #[must_use]
    pub fn hex<'b>(&self, buffer: &'b mut [u8; 128]) -> &'b [u8] {
        const HEX: [u8; 16] = *b"0123456789abcdef";
        let digit = |nibble: u8| HEX.get(usize::from(nibble & 15)).copied().unwrap_or_default();
        for (pair, byte) in buffer.chunks_exact_mut(2).zip(self.as_bytes()) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(*byte)]);
        }
        buffer.get(..self.algorithm().digest_bytes().saturating_mul(2)).unwrap_or_default()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(self.hex(&mut [0; 128])).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{self}", self.algorithm())
    }
}
