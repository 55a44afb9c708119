//! AVX2: four lanes of SHA-512, eight of SHA-256.

#[allow(clippy::wildcard_imports)] // intrinsics: a list of thirty names would say less
use std::arch::x86_64::*;

/// Loads 32 bytes of a message.
///
/// # Panics
/// If they are not all there.
#[inline]
#[target_feature(enable = "avx2")]
fn load_row(message: &[u8], at: usize) -> __m256i {
    let bytes = &message[at..at + 32];
    // SAFETY: the slice has 32 bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor3(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
    _mm256_xor_si256(_mm256_xor_si256(a, b), c)
}

/// Bits of `b` where `a` has ones, of `c` elsewhere.
#[inline]
#[target_feature(enable = "avx2")]
fn choose(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
    _mm256_xor_si256(c, _mm256_and_si256(a, _mm256_xor_si256(b, c)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn majority(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
    _mm256_xor_si256(b, _mm256_and_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(b, c)))
}

/// Whether a block of every lane is all zeros.
#[inline]
#[target_feature(enable = "avx2")]
fn are_zeros(words: &[__m256i; 16]) -> bool {
    let mut any = words[0];
    for word in &words[1..] {
        any = _mm256_or_si256(any, *word);
    }
    _mm256_testz_si256(any, any) == 1
}

/// SHA-512, four lanes.
pub(super) mod sha512 {
    #[allow(clippy::wildcard_imports)]
    use super::*;
    use crate::lanes::body::define_hash;
    use crate::lanes::constants::ROUNDS_512 as ROUNDS;

    type Word = u64;
    type Vector = __m256i;
    /// Messages hashed side by side.
    pub(in crate::lanes) const LANES: usize = 4;
    const BLOCK_BYTES: usize = 128;

    /// Rotates every word right by `RIGHT` bits; `LEFT` is 64 less that.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn rotate<const RIGHT: i32, const LEFT: i32>(x: Vector) -> Vector {
        const { assert!(RIGHT + LEFT == 64) };
        _mm256_or_si256(_mm256_srli_epi64::<RIGHT>(x), _mm256_slli_epi64::<LEFT>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn splat(word: Word) -> Vector {
        _mm256_set1_epi64x(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(a: Vector, b: Vector) -> Vector {
        _mm256_add_epi64(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn big0(x: Vector) -> Vector {
        xor3(rotate::<28, 36>(x), rotate::<34, 30>(x), rotate::<39, 25>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn big1(x: Vector) -> Vector {
        xor3(rotate::<14, 50>(x), rotate::<18, 46>(x), rotate::<41, 23>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn small0(x: Vector) -> Vector {
        xor3(rotate::<1, 63>(x), rotate::<8, 56>(x), _mm256_srli_epi64::<7>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn small1(x: Vector) -> Vector {
        xor3(rotate::<19, 45>(x), rotate::<61, 3>(x), _mm256_srli_epi64::<6>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(vector: Vector, out: &mut [Word; LANES]) {
        // SAFETY: `out` has 32 bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), vector) }
    }

    /// Word `j` of every lane's block into `words[j]`: four transpositions of 4 × 4 words.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(messages: &[&[u8]; LANES], at: usize, words: &mut [Vector; 16]) {
        let swap = _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0809_0a0b_0c0d_0e0f, 0x0001_0203_0405_0607));
        for (quarter, columns) in words.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let [a, b, c, d] = [0, 1, 2, 3]
                .map(|lane| _mm256_shuffle_epi8(load_row(messages[lane], at + 32 * quarter), swap));
            let (even_ab, odd_ab) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
            let (even_cd, odd_cd) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
            *columns = [
                _mm256_permute2x128_si256::<0x20>(even_ab, even_cd),
                _mm256_permute2x128_si256::<0x20>(odd_ab, odd_cd),
                _mm256_permute2x128_si256::<0x31>(even_ab, even_cd),
                _mm256_permute2x128_si256::<0x31>(odd_ab, odd_cd),
            ];
        }
    }

    define_hash!("avx2");
}

/// SHA-256, eight lanes.
pub(super) mod sha256 {
    #[allow(clippy::wildcard_imports)]
    use super::*;
    use crate::lanes::body::define_hash;
    use crate::lanes::constants::ROUNDS_256 as ROUNDS;

    type Word = u32;
    type Vector = __m256i;
    /// Messages hashed side by side.
    pub(in crate::lanes) const LANES: usize = 8;
    const BLOCK_BYTES: usize = 64;

    /// Rotates every word right by `RIGHT` bits; `LEFT` is 32 less that.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn rotate<const RIGHT: i32, const LEFT: i32>(x: Vector) -> Vector {
        const { assert!(RIGHT + LEFT == 32) };
        _mm256_or_si256(_mm256_srli_epi32::<RIGHT>(x), _mm256_slli_epi32::<LEFT>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn splat(word: Word) -> Vector {
        _mm256_set1_epi32(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(a: Vector, b: Vector) -> Vector {
        _mm256_add_epi32(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn big0(x: Vector) -> Vector {
        xor3(rotate::<2, 30>(x), rotate::<13, 19>(x), rotate::<22, 10>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn big1(x: Vector) -> Vector {
        xor3(rotate::<6, 26>(x), rotate::<11, 21>(x), rotate::<25, 7>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn small0(x: Vector) -> Vector {
        xor3(rotate::<7, 25>(x), rotate::<18, 14>(x), _mm256_srli_epi32::<3>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn small1(x: Vector) -> Vector {
        xor3(rotate::<17, 15>(x), rotate::<19, 13>(x), _mm256_srli_epi32::<10>(x))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(vector: Vector, out: &mut [Word; LANES]) {
        // SAFETY: `out` has 32 bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), vector) }
    }

    /// Word `j` of every lane's block into `words[j]`: two transpositions of 8 × 8 words.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(messages: &[&[u8]; LANES], at: usize, words: &mut [Vector; 16]) {
        let swap = _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203));
        for (half, columns) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let mut quads = [swap; 8];
            // Afterwards chunk q of quads[4g + j] holds word 4q + j of the lanes 4g to 4g + 3.
            for (group, out) in quads.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let [a, b, c, d] = [0, 1, 2, 3].map(|row| {
                    _mm256_shuffle_epi8(load_row(messages[4 * group + row], at + 32 * half), swap)
                });
                let (low_ab, high_ab) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                let (low_cd, high_cd) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
                *out = [
                    _mm256_unpacklo_epi64(low_ab, low_cd),
                    _mm256_unpackhi_epi64(low_ab, low_cd),
                    _mm256_unpacklo_epi64(high_ab, high_cd),
                    _mm256_unpackhi_epi64(high_ab, high_cd),
                ];
            }
            for j in 0..4 {
                columns[j] = _mm256_permute2x128_si256::<0x20>(quads[j], quads[4 + j]);
                columns[4 + j] = _mm256_permute2x128_si256::<0x31>(quads[j], quads[4 + j]);
            }
        }
    }

    define_hash!("avx2");
}
