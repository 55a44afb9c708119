//! SHA-2's rounds over vectors, shared by all back ends: one message a lane.

/// Defines `hash` in a module that has the vector primitives of one word size and one instruction set.
///
/// Expected in scope: `Word`, `Vector`, `LANES`, `BLOCK_BYTES`, `ROUNDS`, and the functions `splat`, `add`, `big0`,
/// `big1`, `small0`, `small1`, `choose`, `majority`, `load`, `store`, `are_zeros`.
///
/// A macro and not a generic function: the primitives carry `#[target_feature]`, which makes them safe to call
/// (and sure to be inlined) from functions with the same features, and a trait method cannot carry it.
macro_rules! define_hash {
    ($features:literal) => {
        /// One round: computes into `d` and `h`; the caller renames the variables instead of moving them.
        macro_rules! round {
            ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $constant:expr, $word:expr) => {
                let partial = add(add($h, splat($constant)), add($word, choose($e, $f, $g)));
                let first = add(partial, big1($e));
                $d = add($d, first);
                $h = add(first, add(big0($a), majority($a, $b, $c)));
            };
        }

        /// Compresses a block of zeros of every lane into the states.
        ///
        /// Its message schedule is all zeros, too: only the rounds are left, and the constants. A small file's block
        /// is mostly padding: 100,000 files of 1 KiB took 225 ms of processor time with SHA-512, and take 192 ms.
        #[inline]
        #[target_feature(enable = $features)]
        fn compress_zeros(state: &mut [Vector; 8]) {
            macro_rules! quiet_round {
                ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $constant:expr) => {
                    let first = add(add(add($h, splat($constant)), choose($e, $f, $g)), big1($e));
                    $d = add($d, first);
                    $h = add(first, add(big0($a), majority($a, $b, $c)));
                };
            }
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
            for [k0, k1, k2, k3, k4, k5, k6, k7] in ROUNDS.as_chunks::<8>().0 {
                quiet_round!(a b c d e f g h, *k0);
                quiet_round!(h a b c d e f g, *k1);
                quiet_round!(g h a b c d e f, *k2);
                quiet_round!(f g h a b c d e, *k3);
                quiet_round!(e f g h a b c d, *k4);
                quiet_round!(d e f g h a b c, *k5);
                quiet_round!(c d e f g h a b, *k6);
                quiet_round!(b c d e f g h a, *k7);
            }
            for (old, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                *old = add(*old, new);
            }
        }

        /// Compresses one block of every lane into the states.
        #[inline]
        #[target_feature(enable = $features)]
        fn compress(state: &mut [Vector; 8], words: &mut [Vector; 16]) {
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
            let mut base = 0;
            loop {
                let [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, k15] =
                    ROUNDS.as_chunks::<16>().0[base];
                round!(a b c d e f g h, k0, words[0]);
                round!(h a b c d e f g, k1, words[1]);
                round!(g h a b c d e f, k2, words[2]);
                round!(f g h a b c d e, k3, words[3]);
                round!(e f g h a b c d, k4, words[4]);
                round!(d e f g h a b c, k5, words[5]);
                round!(c d e f g h a b, k6, words[6]);
                round!(b c d e f g h a, k7, words[7]);
                round!(a b c d e f g h, k8, words[8]);
                round!(h a b c d e f g, k9, words[9]);
                round!(g h a b c d e f, k10, words[10]);
                round!(f g h a b c d e, k11, words[11]);
                round!(e f g h a b c d, k12, words[12]);
                round!(d e f g h a b c, k13, words[13]);
                round!(c d e f g h a b, k14, words[14]);
                round!(b c d e f g h a, k15, words[15]);
                base += 1;
                if base == ROUNDS.len() / 16 {
                    break;
                }
                macro_rules! extend {
                    ($at:expr) => {
                        let sum = add(small1(words[($at + 14) % 16]), words[($at + 9) % 16]);
                        words[$at] = add(add(words[$at], small0(words[($at + 1) % 16])), sum);
                    };
                }
                extend!(0);
                extend!(1);
                extend!(2);
                extend!(3);
                extend!(4);
                extend!(5);
                extend!(6);
                extend!(7);
                extend!(8);
                extend!(9);
                extend!(10);
                extend!(11);
                extend!(12);
                extend!(13);
                extend!(14);
                extend!(15);
            }
            for (old, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                *old = add(*old, new);
            }
        }

        /// Hashes `LANES` messages of one length, a multiple of the block size, from `start`, then `padding`.
        ///
        /// # Panics
        /// If a message is shorter than the first.
        #[target_feature(enable = $features)]
        pub(in crate::lanes) fn hash(
            start: &[Word; 8],
            messages: &[&[u8]; LANES],
            padding: &[Word; 16],
            out: &mut [[Word; 8]; LANES],
        ) {
            let mut state = [splat(0); 8];
            for (vector, word) in state.iter_mut().zip(start) {
                *vector = splat(*word);
            }
            let mut words = [splat(0); 16];
            for at in (0..messages[0].len()).step_by(BLOCK_BYTES) {
                load(messages, at, &mut words);
                if are_zeros(&words) {
                    compress_zeros(&mut state);
                } else {
                    compress(&mut state, &mut words);
                }
            }
            for (vector, word) in words.iter_mut().zip(padding) {
                *vector = splat(*word);
            }
            compress(&mut state, &mut words);
            for (index, vector) in state.iter().enumerate() {
                let mut lanes = [0; LANES];
                store(*vector, &mut lanes);
                for (digest, word) in out.iter_mut().zip(lanes) {
                    digest[index] = word;
                }
            }
        }
    };
}

pub(super) use define_hash;
