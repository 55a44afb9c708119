//! Every back end against the `sha2` crate, on every number of lanes.

use bootc_fast_sys::lanes::{Backend, Sha256Lanes, Sha512Lanes};
use sha2::{Digest, Sha256, Sha512};

/// Bytes that look random and differ from message to message.
fn message(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .collect()
}

fn check(backend: Backend, count: usize, len: usize, prefix_len: usize) {
    let messages: Vec<Vec<u8>> = (0..count as u64).map(|seed| message(seed, len)).collect();
    compare(backend, &messages, prefix_len);
}

fn compare(backend: Backend, messages: &[Vec<u8>], prefix_len: usize) {
    let prefix = message(99, prefix_len);
    let what = format!("{backend:?}, {} messages after {prefix_len} bytes", messages.len());
    let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let mut ours = Vec::new();
    Sha512Lanes::new(backend, &prefix).hash(&slices, &mut ours);
    let theirs: Vec<u8> = messages
        .iter()
        .flat_map(|message| Sha512::new().chain_update(&prefix).chain_update(message).finalize())
        .collect();
    assert_eq!(ours, theirs, "SHA-512, {what}");
    let mut ours = Vec::new();
    Sha256Lanes::new(backend, &prefix).hash(&slices, &mut ours);
    let theirs: Vec<u8> = messages
        .iter()
        .flat_map(|message| Sha256::new().chain_update(&prefix).chain_update(message).finalize())
        .collect();
    assert_eq!(ours, theirs, "SHA-256, {what}");
}

#[test]
fn every_back_end_equals_sha2_on_every_number_of_messages() {
    for backend in Backend::available() {
        // Twice the lanes of the widest, then a round of all lanes, then a part of one.
        for count in 0..=67 {
            check(backend, count, 1024, 0);
        }
    }
}

#[test]
fn every_back_end_equals_sha2_on_every_length_and_prefix() {
    for backend in Backend::available() {
        for len in [0, 128, 256, 384, 1024, 2048, 4096, 65536] {
            for prefix_len in [0, 128, 256] {
                check(backend, 17, len, prefix_len);
                check(backend, 33, len, prefix_len);
            }
        }
    }
}

#[test]
fn blocks_of_zeros_in_some_lanes_or_in_all_are_hashed_as_any_others() {
    for backend in Backend::available() {
        for zeros_from in [0, 1, 64, 128, 129, 256, 1000, 1024] {
            // The odd one in the first half of the lanes, and in the second.
            for (count, odd) in [(17, 3), (33, 3), (33, 29)] {
                let mut messages: Vec<Vec<u8>> = (0..count).map(|seed| message(seed, 1024)).collect();
                for (index, data) in messages.iter_mut().enumerate() {
                    // All lanes alike in one pass, one of them otherwise in the next.
                    let from = if index == odd { 1023 } else { zeros_from };
                    data[from.max(zeros_from)..].fill(0);
                }
                compare(backend, &messages, 0);
                messages.remove(odd);
                compare(backend, &messages, 128);
            }
        }
    }
}

#[test]
fn every_back_end_of_this_architecture_is_tested_here() {
    // The machines that build have AVX-512; one without would test less, and should say so by failing.
    #[cfg(target_arch = "x86_64")]
    assert!(Backend::available().contains(&Backend::Avx2), "this processor lacks AVX2");
    assert_eq!(Some(&Backend::best()), Backend::available().last());
}

#[test]
#[should_panic(expected = "differ in length")]
fn messages_of_different_lengths_are_refused() {
    Sha512Lanes::new(Backend::Portable, b"").hash(&[&[0; 128], &[0; 256]], &mut Vec::new());
}

#[test]
#[should_panic(expected = "no multiple of")]
fn a_partial_block_is_refused() {
    Sha256Lanes::new(Backend::Portable, b"").hash(&[&[0; 65]], &mut Vec::new());
}
