//! Any number of messages over the lanes that there are.

use sha2::block_api::{compress256, compress512};

use super::Backend;
use super::constants::{START_256, START_512};

/// Defines a hasher of one word size.
macro_rules! define_lanes {
    (
        $(#[$doc:meta])* $name:ident, $word:ty, $block:literal, $digest:literal, $start:ident, $compress:ident,
        $module:ident, $pair:ident, $length_type:ty
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            backend: Backend,
            start: [$word; 8],
            start_bytes: u64,
        }

        impl $name {
            /// Length in bytes that every message's is a multiple of.
            pub const BLOCK_BYTES: usize = $block;
            /// Length of a digest in bytes.
            pub const DIGEST_BYTES: usize = $digest;

            /// A hasher of messages that all start with `prefix`, which is hashed once.
            ///
            /// # Panics
            /// If the prefix is not a multiple of the block size, or this processor lacks the back end.
            #[must_use]
            pub fn new(backend: Backend, prefix: &[u8]) -> Self {
                assert!(backend.is_available(), "{backend:?} needs instructions that this processor lacks");
                let (blocks, rest) = prefix.as_chunks::<$block>();
                assert!(rest.is_empty(), "a prefix of {} bytes is no multiple of {}", prefix.len(), $block);
                let mut start = $start;
                $compress(&mut start, blocks);
                Self { backend, start, start_bytes: prefix.len() as u64 }
            }

            /// Appends the digest of every message to `out`, in order.
            ///
            /// # Panics
            /// If the messages differ in length, or it is not a multiple of the block size.
            pub fn hash(&self, messages: &[&[u8]], out: &mut Vec<u8>) {
                let Some(len) = messages.first().map(|message| message.len()) else { return };
                assert!(len % $block == 0, "a message of {len} bytes is no multiple of {}", $block);
                assert!(messages.iter().all(|message| message.len() == len), "the messages differ in length");
                out.reserve(messages.len() * $digest);
                let padding = self.padding(len as u64);
                match self.backend {
                    Backend::Portable => self.hash_singly(messages, &padding, out),
                    #[cfg(target_arch = "x86_64")]
                    Backend::Avx2 => self.hash_avx2(messages, &padding, out),
                    #[cfg(target_arch = "x86_64")]
                    Backend::Avx512 => self.hash_avx512(messages, &padding, out),
                    #[cfg(not(target_arch = "x86_64"))]
                    _ => self.hash_singly(messages, &padding, out),
                }
            }

            /// The last block: a one bit, zeros, the length in bits. Always a block of its own, the rest being full.
            fn padding(&self, message_bytes: u64) -> [$word; 16] {
                let bits = <$length_type>::from(self.start_bytes + message_bytes) * 8;
                let mut words = [0; 16];
                words[0] = 1 << (<$word>::BITS - 1);
                let bytes = bits.to_be_bytes();
                for (word, half) in words[14..].iter_mut().zip(bytes.as_chunks().0) {
                    *word = <$word>::from_be_bytes(*half);
                }
                words
            }

            fn hash_singly(&self, messages: &[&[u8]], padding: &[$word; 16], out: &mut Vec<u8>) {
                let mut last = [0; $block];
                last.as_chunks_mut().0.iter_mut().zip(padding).for_each(|(bytes, word)| *bytes = word.to_be_bytes());
                for message in messages {
                    let mut state = self.start;
                    $compress(&mut state, message.as_chunks::<$block>().0);
                    $compress(&mut state, &[last]);
                    out.extend(state.iter().flat_map(|word| word.to_be_bytes()));
                }
            }

            #[cfg(target_arch = "x86_64")]
            fn hash_avx2(&self, messages: &[&[u8]], padding: &[$word; 16], out: &mut Vec<u8>) {
                use super::avx2::$module::{LANES, hash};
                let hash = |round: &_, digests: &mut _| {
                    // SAFETY: `new` checked that the processor has AVX2.
                    unsafe { hash(&self.start, round, padding, digests) }
                };
                let rest = Self::hash_rounds::<LANES>(messages, out, &hash);
                self.hash_rest::<LANES>(rest, padding, out, &hash);
            }

            #[cfg(target_arch = "x86_64")]
            fn hash_avx512(&self, messages: &[&[u8]], padding: &[$word; 16], out: &mut Vec<u8>) {
                use super::avx512::{$module, $pair};
                let one = |round: &_, digests: &mut _| {
                    // SAFETY: `new` checked that the processor has AVX-512 F and BW.
                    unsafe { $module::hash(&self.start, round, padding, digests) }
                };
                let two = |round: &_, digests: &mut _| {
                    // SAFETY: as above.
                    unsafe { $pair::hash(&self.start, round, padding, digests) }
                };
                let rest = Self::hash_rounds::<{ $pair::LANES }>(messages, out, two);
                let rest = Self::hash_rounds::<{ $module::LANES }>(rest, out, &one);
                self.hash_rest::<{ $module::LANES }>(rest, padding, out, &one);
            }

            /// Full rounds of `LANES` messages; returns those left.
            #[cfg(target_arch = "x86_64")]
            fn hash_rounds<'m, 'b, const LANES: usize>(
                messages: &'m [&'b [u8]],
                out: &mut Vec<u8>,
                hash: impl Fn(&[&'b [u8]; LANES], &mut [[$word; 8]; LANES]),
            ) -> &'m [&'b [u8]] {
                let mut digests = [[0; 8]; LANES];
                let (rounds, rest) = messages.as_chunks::<LANES>();
                for round in rounds {
                    hash(round, &mut digests);
                    out.extend(digests.as_flattened().iter().flat_map(|word| word.to_be_bytes()));
                }
                rest
            }

            /// Fewer than `LANES` messages: a round that repeats one of them, where that pays.
            #[cfg(target_arch = "x86_64")]
            fn hash_rest<'b, const LANES: usize>(
                &self,
                rest: &[&'b [u8]],
                padding: &[$word; 16],
                out: &mut Vec<u8>,
                hash: impl Fn(&[&'b [u8]; LANES], &mut [[$word; 8]; LANES]),
            ) {
                if rest.len() < Self::pays_from(LANES) {
                    return self.hash_singly(rest, padding, out);
                }
                let mut digests = [[0; 8]; LANES];
                let mut round = [rest[0]; LANES];
                round[..rest.len()].copy_from_slice(rest);
                hash(&round, &mut digests);
                let wanted = digests.iter().take(rest.len()).flatten();
                out.extend(wanted.flat_map(|word| word.to_be_bytes()));
            }
        }
    };
}

define_lanes!(
    /// SHA-256 of messages of one length.
    Sha256Lanes, u32, 64, 32, START_256, compress256, sha256, sha256_pair, u64
);
define_lanes!(
    /// SHA-512 of messages of one length.
    Sha512Lanes, u64, 128, 64, START_512, compress512, sha512, sha512_pair, u128
);

#[cfg(target_arch = "x86_64")]
impl Sha256Lanes {
    /// Fewest messages for which a round of all lanes beats one message after the other. With SHA-NI one takes
    /// about an eighth of sixteen lanes' round.
    fn pays_from(lanes: usize) -> usize {
        if is_x86_feature_detected!("sha") { lanes / 2 } else { 2.max(lanes / 5) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Sha512Lanes {
    /// Fewest messages for which a round of all lanes beats one message after the other.
    fn pays_from(lanes: usize) -> usize {
        2.max(lanes / 4)
    }
}
