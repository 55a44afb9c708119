//! Two vectors side by side: twice the lanes by the same rounds.
//!
//! A round waits for the one before it. Where a vector instruction takes two cycles and four can start in one (Zen 5),
//! one set of lanes leaves half of the machine idle, and a second, independent set fills it. Where throughput is
//! what limits (two vector ports, one of them for rotations), two sets cost no more than one after the other: the
//! state of both fits the 32 registers, and the words of a block are operands from the first-level cache.

/// Defines `$name` over pairs of vectors, of one, two or three arguments.
macro_rules! define_primitive {
    ($features:literal, $name:ident($($argument:ident),+)) => {
        #[inline]
        #[target_feature(enable = $features)]
        fn $name($($argument: Vector),+) -> Vector {
            Vector(one::$name($($argument.0),+), one::$name($($argument.1),+))
        }
    };
}

/// Defines what `define_hash!` expects over pairs of the vectors of the module `$single`, and its `hash`.
macro_rules! define_pair {
    ($features:literal, $single:ident) => {
        use super::{are_zeros as one_are_zeros, $single as one};
        use crate::lanes::body::define_hash;
        use crate::lanes::pair::define_primitive;
        use one::{BLOCK_BYTES, ROUNDS, Word};

        /// Messages hashed side by side.
        pub(in crate::lanes) const LANES: usize = 2 * one::LANES;

        /// The first half of the lanes, and the second.
        #[derive(Clone, Copy)]
        struct Vector(one::Vector, one::Vector);

        define_primitive!($features, add(a, b));
        define_primitive!($features, choose(a, b, c));
        define_primitive!($features, majority(a, b, c));
        define_primitive!($features, big0(x));
        define_primitive!($features, big1(x));
        define_primitive!($features, small0(x));
        define_primitive!($features, small1(x));

        #[inline]
        #[target_feature(enable = $features)]
        fn splat(word: Word) -> Vector {
            Vector(one::splat(word), one::splat(word))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn store(vector: Vector, out: &mut [Word; LANES]) {
            let [first, second] = out.as_chunks_mut().0 else {
                unreachable!("twice the lanes are two halves")
            };
            one::store(vector.0, first);
            one::store(vector.1, second);
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn load(messages: &[&[u8]; LANES], at: usize, words: &mut [Vector; 16]) {
            let [first, second] = messages.as_chunks().0 else {
                unreachable!("twice the lanes are two halves")
            };
            let mut halves = [[one::splat(0); 16]; 2];
            one::load(first, at, &mut halves[0]);
            one::load(second, at, &mut halves[1]);
            for (word, (first, second)) in words.iter_mut().zip(halves[0].iter().zip(&halves[1])) {
                *word = Vector(*first, *second);
            }
        }

        /// Whether a block of every lane is all zeros.
        #[inline]
        #[target_feature(enable = $features)]
        fn are_zeros(words: &[Vector; 16]) -> bool {
            one_are_zeros(&words.map(|word| word.0)) && one_are_zeros(&words.map(|word| word.1))
        }

        define_hash!($features);
    };
}

pub(super) use {define_pair, define_primitive};
