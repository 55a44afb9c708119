//! Against a slow reference: one block after the other, the definition written down.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};

use bootc_fast_sys::lanes::Backend;
use sha2::{Digest as _, Sha256, Sha512};

use super::*;
use crate::cancel::{Cancel, Cancelled, Never};

const SALTS: [&[u8]; 3] = [b"", b"salt", &[7; 32]];

fn hash(algorithm: Algorithm, parts: &[&[u8]]) -> Vec<u8> {
    match algorithm {
        Algorithm::Sha256 => Sha256::digest(parts.concat()).to_vec(),
        Algorithm::Sha512 => Sha512::digest(parts.concat()).to_vec(),
    }
}

fn reference(algorithm: Algorithm, block_bytes: usize, salt: &[u8], data: &[u8]) -> Vec<u8> {
    let mut prefix = salt.to_vec();
    while !prefix.len().is_multiple_of(algorithm.hash_block_bytes()) {
        prefix.push(0);
    }
    let mut level = data.to_vec();
    let mut root = vec![];
    while !level.is_empty() {
        let digests: Vec<Vec<u8>> = level
            .chunks(block_bytes)
            .map(|block| hash(algorithm, &[&prefix, block, &vec![0; block_bytes - block.len()]]))
            .collect();
        level = if digests.len() == 1 { vec![] } else { digests.concat() };
        root.clone_from(&digests[0]);
    }
    root.resize(64, 0);
    let bits = u8::try_from(block_bytes.trailing_zeros()).unwrap();
    let head = [1, algorithm.kernel_id(), bits, u8::try_from(salt.len()).unwrap(), 0, 0, 0, 0];
    let padded_salt = [salt, &vec![0; 32 - salt.len()]].concat();
    hash(algorithm, &[&head, &(data.len() as u64).to_le_bytes(), &root, &padded_salt, &[0; 144]])
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from((index * 31 + index / 997) % 256).unwrap()).collect()
}

/// Sizes around every edge of blocks, lane groups and levels.
fn sizes(algorithm: Algorithm, block_bytes: usize) -> Vec<usize> {
    let fanout = block_bytes / algorithm.digest_bytes();
    let edges =
        [1, 2, 3, 15, 16, 17, 32, 33, fanout - 1, fanout, fanout + 1, 16 * fanout, 17 * fanout, 33 * fanout];
    let mut sizes: Vec<usize> = edges
        .iter()
        .flat_map(|blocks| [blocks * block_bytes - 1, blocks * block_bytes, blocks * block_bytes + 1])
        .collect();
    sizes.extend([0, 1, 2, 63, 64, 65, 127, 128, 129, fanout * fanout * block_bytes + 1]);
    sizes.retain(|size| *size < 6 << 20);
    sizes
}

#[test]
fn every_size_around_the_edges_equals_the_reference() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for (block_bytes, salt) in [(1024u32, SALTS[2]), (4096, SALTS[0]), (65536, SALTS[1])] {
            let params = Params::new(algorithm, block_bytes, salt).unwrap();
            let all = data(6 << 20);
            let sizes = sizes(algorithm, block_bytes as usize);
            let contents: Vec<&[u8]> = sizes.iter().map(|size| &all[..*size]).collect();
            let many = digest_many(&params, &contents, &Never).unwrap();
            for (content, many) in contents.iter().zip(many) {
                let expected = reference(algorithm, block_bytes as usize, salt, content);
                let what = format!("{algorithm:?} {block_bytes} {} bytes", content.len());
                assert_eq!(digest_bytes(&params, content).as_bytes(), expected, "{what}");
                assert_eq!(many.as_bytes(), expected, "many: {what}");
            }
        }
    }
}

#[test]
fn every_way_to_cut_a_stream_gives_the_same_digest() {
    let all = data(300_000);
    let params = Params::new(Algorithm::Sha256, 1024, b"x").unwrap();
    let expected = digest_bytes(&params, &all);
    for step in [1, 1023, 1024, 1025, 16 * 1024, 16 * 1024 + 1, 100_000] {
        let mut hasher = VerityHasher::new(params.clone());
        all.chunks(step).for_each(|chunk| hasher.update(chunk));
        assert_eq!(hasher.finish(), expected, "steps of {step}");
    }
}

#[test]
fn every_back_end_gives_the_same_tree() {
    let all = data(1_000_003);
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let params = Params::composefs(algorithm);
        let digests: Vec<Digest> = Backend::available()
            .into_iter()
            .map(|backend| {
                let mut hasher =
                    VerityHasher::with_blocks(BlockHasher::with_backend(params.clone(), backend));
                hasher.update(&all);
                hasher.finish()
            })
            .collect();
        assert!(digests.iter().all(|digest| *digest == digests[0]));
    }
}

#[test]
fn salt_and_its_padded_self_differ_and_parameters_are_checked() {
    let digest = |salt: &[u8]| digest_bytes(&Params::new(Algorithm::Sha512, 4096, salt).unwrap(), b"x");
    assert_ne!(digest(b"a"), digest(b"a\0"));
    assert_ne!(digest(b""), digest(b"\0"));
    assert_eq!(Params::new(Algorithm::Sha512, 4096, &[0; 33]), Err(ParamsError::SaltLength { len: 33 }));
    for block_bytes in [0, 512, 4095, 131_072] {
        assert_eq!(
            Params::new(Algorithm::Sha512, block_bytes, b""),
            Err(ParamsError::BlockSize { block_bytes })
        );
    }
}

/// An unlinked file with content.
fn file_of(content: &[u8]) -> std::fs::File {
    let mut file = std::fs::File::from(
        rustix::fs::memfd_create("bootc-fast-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
    );
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn any_number_of_threads_gives_the_same_digest() {
    let all = data(9 << 20);
    let params = Params::composefs(Algorithm::Sha256);
    for size in [0, 1, 4 << 20, (4 << 20) + 1, (5 << 20) - 4095, 9 << 20] {
        let mut file = file_of(&all[..size]);
        for threads in [1, 2, 3, 5] {
            file.rewind().unwrap();
            let digest = digest_file(&params, &mut file, threads, &Never).unwrap();
            assert_eq!(digest, digest_bytes(&params, &all[..size]), "{size} bytes, {threads} threads");
        }
    }
}

#[test]
fn more_parts_than_may_be_ahead_are_joined_in_order() {
    // Holes but for some bytes: nothing on disk, and no two halves of it are equal.
    let mut file = file_of(b"start");
    file.set_len((300 << 20) + 4097).unwrap();
    file.seek(SeekFrom::Start(170 << 20)).unwrap();
    file.write_all(b"middle").unwrap();
    let params = Params::composefs(Algorithm::Sha256);
    let digests = [1, 2, 7].map(|threads| {
        file.rewind().unwrap();
        digest_file(&params, &mut file, threads, &Never).unwrap()
    });
    file.rewind().unwrap();
    assert_eq!([digest_reader(&params, &mut file, &Never).unwrap(); 3], digests);
}

#[test]
fn a_file_is_digested_from_its_position_on() {
    let all = data(5 << 20);
    let mut file = file_of(&all);
    let params = Params::composefs(Algorithm::Sha512);
    for threads in [1, 2] {
        file.seek(SeekFrom::Start(4097)).unwrap();
        let digest = digest_file(&params, &mut file, threads, &Never).unwrap();
        assert_eq!(digest, digest_bytes(&params, &all[4097..]));
    }
}

/// Cancels at the n-th question.
struct After(AtomicU32);

impl Cancel for After {
    fn check(&self) -> Result<(), Cancelled> {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 { Err(Cancelled) } else { Ok(()) }
    }
}

#[test]
fn a_cancelled_digest_ends_with_the_cancellation() {
    // Holes: nothing on disk, but as much to hash.
    let mut file = file_of(b"");
    file.set_len(1 << 30).unwrap();
    let params = Params::composefs(Algorithm::Sha512);
    for threads in [1, 2] {
        file.rewind().unwrap();
        let error = digest_file(&params, &mut file, threads, &After(AtomicU32::new(2))).unwrap_err();
        assert!(error.get_ref().unwrap().is::<Cancelled>(), "{error}");
    }
}
