//! SHA-256 and SHA-512 of many messages of one length, side by side in vector lanes.
//!
//! One message's blocks depend on each other; different messages do not, so word *i* of eight messages can sit in one
//! register and the rounds run once for all. Which instructions are used is decided at run time.

mod body;
mod constants;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod batch;
#[cfg(target_arch = "x86_64")]
mod pair;

pub use batch::{Sha256Lanes, Sha512Lanes};

/// What computes the hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The `sha2` crate, one message at a time; itself uses SHA-NI where it is.
    Portable,
    /// 256-bit vectors.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl Backend {
    /// Those that this processor has, slowest first; never empty.
    #[must_use]
    pub fn available() -> Vec<Self> {
        [Self::Portable, Self::Avx2, Self::Avx512]
            .into_iter()
            .filter(|backend| backend.is_available())
            .collect()
    }

    /// The fastest that this processor has.
    #[must_use]
    pub fn best() -> Self {
        // The standard library caches what it detects.
        if Self::Avx512.is_available() {
            Self::Avx512
        } else if Self::Avx2.is_available() {
            Self::Avx2
        } else {
            Self::Portable
        }
    }

    /// Whether this processor has the instructions.
    #[must_use]
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Portable => true,
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
        }
        #[cfg(not(target_arch = "x86_64"))]
        matches!(self, Self::Portable)
    }
}
