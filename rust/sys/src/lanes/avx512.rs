//! AVX-512 (F and BW): eight lanes of SHA-512, sixteen of SHA-256, and pairs of these.

#[allow(clippy::wildcard_imports)] // intrinsics: a list of thirty names would say less
use std::arch::x86_64::*;

/// Loads 64 bytes of a message.
///
/// # Panics
/// If they are not all there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_row(message: &[u8], at: usize) -> __m512i {
    let bytes = &message[at..at + 64];
    // SAFETY: the slice has 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Whether a block of every lane is all zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn are_zeros(words: &[__m512i; 16]) -> bool {
    let mut any = words[0];
    for word in &words[1..] {
        any = _mm512_or_si512(any, *word);
    }
    _mm512_test_epi64_mask(any, any) == 0
}

/// SHA-512, eight lanes.
pub(super) mod sha512 {
    #[allow(clippy::wildcard_imports)]
    use super::*;
    use crate::lanes::body::define_hash;
    pub(super) use crate::lanes::constants::ROUNDS_512 as ROUNDS;

    pub(super) type Word = u64;
    pub(super) type Vector = __m512i;
    /// Messages hashed side by side.
    pub(in crate::lanes) const LANES: usize = 8;
    pub(super) const BLOCK_BYTES: usize = 128;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn splat(word: Word) -> Vector {
        _mm512_set1_epi64(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn add(a: Vector, b: Vector) -> Vector {
        _mm512_add_epi64(a, b)
    }

    // Truth tables of `vpternlog`: bit (a << 2 | b << 1 | c) is the result.

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
        _mm512_ternarylogic_epi64::<0x96>(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn choose(a: Vector, b: Vector, c: Vector) -> Vector {
        _mm512_ternarylogic_epi64::<0xca>(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn majority(a: Vector, b: Vector, c: Vector) -> Vector {
        _mm512_ternarylogic_epi64::<0xe8>(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn big0(x: Vector) -> Vector {
        xor3(_mm512_ror_epi64::<28>(x), _mm512_ror_epi64::<34>(x), _mm512_ror_epi64::<39>(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn big1(x: Vector) -> Vector {
        xor3(_mm512_ror_epi64::<14>(x), _mm512_ror_epi64::<18>(x), _mm512_ror_epi64::<41>(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn small0(x: Vector) -> Vector {
        xor3(_mm512_ror_epi64::<1>(x), _mm512_ror_epi64::<8>(x), _mm512_srli_epi64::<7>(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn small1(x: Vector) -> Vector {
        xor3(_mm512_ror_epi64::<19>(x), _mm512_ror_epi64::<61>(x), _mm512_srli_epi64::<6>(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn store(vector: Vector, out: &mut [Word; LANES]) {
        // SAFETY: `out` has 64 bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), vector) }
    }

    /// Word `j` of every lane's block into `words[j]`: two transpositions of 8 × 8 words.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn load(messages: &[&[u8]; LANES], at: usize, words: &mut [Vector; 16]) {
        let swap = _mm512_set4_epi64(
            0x0809_0a0b_0c0d_0e0f,
            0x0001_0203_0405_0607,
            0x0809_0a0b_0c0d_0e0f,
            0x0001_0203_0405_0607,
        );
        for (half, columns) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let mut pairs = [swap; 8];
            for (pair, out) in pairs.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let upper = _mm512_shuffle_epi8(load_row(messages[2 * pair], at + 64 * half), swap);
                let lower = _mm512_shuffle_epi8(load_row(messages[2 * pair + 1], at + 64 * half), swap);
                *out = [_mm512_unpacklo_epi64(upper, lower), _mm512_unpackhi_epi64(upper, lower)];
            }
            for odd in 0..2 {
                let [a, b, c, d] = [pairs[odd], pairs[2 + odd], pairs[4 + odd], pairs[6 + odd]];
                let (low, high) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0x88>(c, d));
                columns[odd] = _mm512_shuffle_i64x2::<0x88>(low, high);
                columns[4 + odd] = _mm512_shuffle_i64x2::<0xdd>(low, high);
                let (low, high) = (_mm512_shuffle_i64x2::<0xdd>(a, b), _mm512_shuffle_i64x2::<0xdd>(c, d));
                columns[2 + odd] = _mm512_shuffle_i64x2::<0x88>(low, high);
                columns[6 + odd] = _mm512_shuffle_i64x2::<0xdd>(low, high);
            }
        }
    }

    define_hash!("avx512f,avx512bw");
}

/// SHA-256, sixteen lanes.
pub(super) mod sha256 {
    #[allow(clippy::wildcard_imports)]
    use super::*;
    use crate::lanes::body::define_hash;
    pub(super) use crate::lanes::constants::ROUNDS_256 as ROUNDS;

    pub(super) type Word = u32;
    pub(super) type Vector = __m512i;
    /// Messages hashed side by side.
    pub(in crate::lanes) const LANES: usize = 16;
    pub(super) const BLOCK_BYTES: usize = 64;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn splat(word: Word) -> Vector {
        _mm512_set1_epi32(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn add(a: Vector, b: Vector) -> Vector {
        _mm512_add_epi32(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
        _mm512_ternarylogic_epi32::<0x96>(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn choose(a: Vector, b: Vector, c: Vector) -> Vector {
        _mm512_ternarylogic_epi32::<0xca>(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn majority(a: Vector, b: Vector, c: Vector) -> Vector {
        _mm512_ternarylogic_epi32::<0xe8>(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn big0(x: Vector) -> Vector {
        xor3(_mm512_ror_epi32::<2>(x), _mm512_ror_epi32::<13>(x), _mm512_ror_epi32::<22>(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn big1(x: Vector) -> Vector {
        xor3(_mm512_ror_epi32::<6>(x), _mm512_ror_epi32::<11>(x), _mm512_ror_epi32::<25>(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn small0(x: Vector) -> Vector {
        xor3(_mm512_ror_epi32::<7>(x), _mm512_ror_epi32::<18>(x), _mm512_srli_epi32::<3>(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn small1(x: Vector) -> Vector {
        xor3(_mm512_ror_epi32::<17>(x), _mm512_ror_epi32::<19>(x), _mm512_srli_epi32::<10>(x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn store(vector: Vector, out: &mut [Word; LANES]) {
        // SAFETY: `out` has 64 bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), vector) }
    }

    /// Word `j` of every lane's block into `words[j]`: a transposition of 16 × 16 words.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn load(messages: &[&[u8]; LANES], at: usize, words: &mut [Vector; 16]) {
        let swap = _mm512_set4_epi64(
            0x0c0d_0e0f_0809_0a0b,
            0x0405_0607_0001_0203,
            0x0c0d_0e0f_0809_0a0b,
            0x0405_0607_0001_0203,
        );
        let mut quads = [swap; 16];
        // Afterwards chunk q of quads[4g + j] holds word 4q + j of the lanes 4g to 4g + 3.
        for (group, out) in quads.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let [a, b, c, d] =
                [0, 1, 2, 3].map(|row| _mm512_shuffle_epi8(load_row(messages[4 * group + row], at), swap));
            let (low_ab, high_ab) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (low_cd, high_cd) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            *out = [
                _mm512_unpacklo_epi64(low_ab, low_cd),
                _mm512_unpackhi_epi64(low_ab, low_cd),
                _mm512_unpacklo_epi64(high_ab, high_cd),
                _mm512_unpackhi_epi64(high_ab, high_cd),
            ];
        }
        for j in 0..4 {
            let [a, b, c, d] = [quads[j], quads[4 + j], quads[8 + j], quads[12 + j]];
            let (low, high) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
            words[j] = _mm512_shuffle_i32x4::<0x88>(low, high);
            words[8 + j] = _mm512_shuffle_i32x4::<0xdd>(low, high);
            let (low, high) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
            words[4 + j] = _mm512_shuffle_i32x4::<0x88>(low, high);
            words[12 + j] = _mm512_shuffle_i32x4::<0xdd>(low, high);
        }
    }

    define_hash!("avx512f,avx512bw");
}

/// SHA-512, twice eight lanes.
pub(super) mod sha512_pair {
    use crate::lanes::pair::define_pair;

    define_pair!("avx512f,avx512bw", sha512);
}

/// SHA-256, twice sixteen lanes.
pub(super) mod sha256_pair {
    use crate::lanes::pair::define_pair;

    define_pair!("avx512f,avx512bw", sha256);
}
