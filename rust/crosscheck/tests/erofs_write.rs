//! The same tree, written by the core and by the composefs crate: the same bytes, hence the same digest.

#![allow(clippy::unwrap_used, reason = "clippy only sees #[test] functions as tests, not their helpers")]

mod common;

use bootc_fast_core::cancel::Never;
use bootc_fast_core::erofs::to_image;
use bootc_fast_core::tree::Tree;
use bootc_fast_core::verity::{Algorithm, Params, digest_bytes};
use common::{Kind, Spec, build, specs, to_theirs};
use composefs::dumpfile::write_dumpfile;
use composefs::erofs::format::FormatVersion;
use composefs::erofs::reader::erofs_to_filesystem;
use composefs::erofs::writer::{ValidatedFileSystem, mkfs_erofs_versioned};
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue, compute_verity};
use proptest::prelude::*;

fn assert_same<H: FsVerityHashValue>(tree: &Tree, algorithm: Algorithm) {
    let ours = to_image(tree, &Never).unwrap();
    let theirs = ValidatedFileSystem::new(to_theirs::<H>(tree)).unwrap();
    let theirs = mkfs_erofs_versioned(&theirs, FormatVersion::V1);
    let differs = ours.iter().zip(&theirs).position(|(left, right)| left != right);
    assert_eq!((ours.len(), differs), (theirs.len(), None), "length, first difference");
    let digest = digest_bytes(&Params::composefs(algorithm), &ours);
    assert_eq!(digest.to_string(), compute_verity::<H>(&theirs).to_hex());
}

fn assert_read_back<H: FsVerityHashValue>(tree: &Tree) {
    let read = erofs_to_filesystem::<H>(&to_image(tree, &Never).unwrap()).unwrap();
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    write_dumpfile(&mut found, &read).unwrap();
    write_dumpfile(&mut expected, &to_theirs::<H>(tree)).unwrap();
    assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(&expected));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn writes_the_bytes_that_the_crate_writes(specs in specs()) {
        assert_same::<Sha256HashValue>(&build(Algorithm::Sha256, &specs), Algorithm::Sha256);
        assert_same::<Sha512HashValue>(&build(Algorithm::Sha512, &specs), Algorithm::Sha512);
    }

    #[test]
    fn the_crate_reads_back_the_tree(specs in specs()) {
        let readable: Vec<Spec> = specs.into_iter().filter(|spec| is_readable_by_crate(&spec.kind)).collect();
        assert_read_back::<Sha256HashValue>(&build(Algorithm::Sha256, &readable));
    }
}

/// Whiteouts come back as files, by design; and the crate's reader has limits that its writer has not.
fn is_readable_by_crate(kind: &Kind) -> bool {
    match kind {
        Kind::Char(0) => false,
        Kind::Inline(data) => data.len() <= 64,
        Kind::Symlink(target) => target.len() <= 1024,
        _ => true,
    }
}
