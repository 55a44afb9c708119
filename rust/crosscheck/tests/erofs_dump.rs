//! Images that the composefs crate writes: our dump against the crate's own, in all three forms, both hashes.

#![allow(clippy::unwrap_used, reason = "clippy only sees #[test] functions as tests, not their helpers")]

use std::fmt::Write;

use bootc_fast_core::cancel::Never;
use bootc_fast_core::erofs::{ComposefsVersion, Image};
use composefs::dumpfile::{dumpfile_to_filesystem, write_dumpfile};
use composefs::erofs::format::FormatVersion;
use composefs::erofs::reader::erofs_to_filesystem;
use composefs::erofs::writer::{ValidatedFileSystem, mkfs_erofs_versioned};
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue};

const VERSIONS: [(FormatVersion, ComposefsVersion); 3] = [
    (FormatVersion::V0, ComposefsVersion::V0),
    (FormatVersion::V1, ComposefsVersion::V1),
    (FormatVersion::V2, ComposefsVersion::V2),
];

fn digest<H: FsVerityHashValue>(byte: u8) -> (String, String) {
    let hex = format!("{byte:02x}").repeat(size_of::<H>());
    (format!("{}/{}", &hex[..2], &hex[2..]), hex)
}

/// One line of every kind, with everything that has to be escaped.
fn special<H: FsVerityHashValue>() -> String {
    let (path, hex) = digest::<H>(0xa7);
    let long_target = "t/".repeat(500);
    let long_value = "v".repeat(5000);
    format!(
        "/ 0 40555 5 0 0 0 1633950376.7 - - - trusted.foo1=bar-1 security.selinux=system_u:object_r:root_t:s0\\x00
/-x 0 40700 2 1 2 0 1633950376.7 - - -
/#x# 3 100600 1 70000 70001 0 1633950376.7 - a\\x00b -
/aa 0 20644 1 0 0 0 1633950376.7 - - - user.mine=1
/bb 4 100644 1 0 0 0 1633950376.7 - =-\\\\\\n -
/blockdev 0 60777 1 0 0 107690 5.0 - - - trusted.bar=bar-2
/chardev 0 20777 1 0 0 4294967295 1.999999999 - - -
/dash 1 100644 1 0 0 0 3.0 - \\x2d -
/dir 0 41777 3 0 0 0 1633950376.8 - - - user.a=\\x3d trusted.overlay.custom=1
/dir/sp\\x20ace\\t 0 100644 1 0 0 0 4.0 - - - user.long={long_value} user.empty=
/dir/sub 0 40755 2 0 0 0 1633950376.7 - - - security.selinux=system_u:object_r:etc_t:s0\\x00
/dir/sub/hard 99999999999 100755 3 0 0 0 5.0 {path} - {hex} security.selinux=system_u:object_r:etc_t:s0\\x00
/escaped 0 100777 1 0 0 0 6.0 - - - trusted.overlay.redirect=/foo\\n user.foo=bar-2 user.overlay.redirect=/foo\\n
/external 70 104755 1 0 0 0 7.0 {path} - {hex} security.capability=\\x01\\xff
/fifo 0 10777 1 0 0 0 8.0 - - -
/hard2 0 @120000 - - - - 0.0 /dir/sub/hard - -
/hard3 0 @120000 - - - - 0.0 /dir/sub/hard - -
/inline 300 100777 1 0 0 0 9.0 - {inline} - user.foo=bar-2
/link 1000 120777 1 0 0 0 10.0 {long_target} - -
/lustre 0 100644 1 0 0 0 11.0 - - - lustre.x=1 weird.y=2
/sock 0 140644 1 0 0 0 12.0 - - -
/sparse 1234567 100644 1 0 0 0 13.0 - - -
/whiteout 0 20777 1 0 0 0 14.0 - - - trusted.foo=bar-2
/z 0 40755 2 0 0 0 15.0 - - -
/z/whiteout 0 20777 1 0 0 0 16.0 - - -
",
        inline = "CC=".repeat(100),
    )
}

/// A directory of several blocks, and enough equal attributes that they are shared.
fn large<H: FsVerityHashValue>() -> String {
    let mut dump = "/ 0 40755 3 0 0 0 1.0 - - -\n/d 0 40755 2 0 0 0 1.0 - - -\n".to_owned();
    for number in 0..1000u32 {
        let (path, hex) = digest::<H>(u8::try_from(number % 250).unwrap());
        let label = number % 7;
        writeln!(
            dump,
            "/d/file-{number:04} {size} 100644 1 {number} 0 0 {number}.0 {path} - {hex} user.label={label}",
            size = 65 + u64::from(number) * 100_000
        )
        .unwrap();
    }
    dump
}

fn image_of<H: FsVerityHashValue>(dump: &str, version: FormatVersion) -> Vec<u8> {
    let tree = dumpfile_to_filesystem::<H>(dump).unwrap();
    mkfs_erofs_versioned(&ValidatedFileSystem::new(tree).unwrap(), version).into_vec()
}

fn dump_of_crate<H: FsVerityHashValue>(image: &[u8]) -> String {
    let mut out = Vec::new();
    write_dumpfile(&mut out, &erofs_to_filesystem::<H>(image).unwrap()).unwrap();
    String::from_utf8(out).unwrap()
}

fn dump_of_ours(image: Vec<u8>) -> String {
    let mut out = Vec::new();
    Image::from_bytes(image).unwrap().dump(&mut out, &Never).unwrap();
    String::from_utf8(out).unwrap()
}

fn compare<H: FsVerityHashValue>(dump: &str) {
    for (version, ours) in VERSIONS {
        let image = image_of::<H>(dump, version);
        let opened = Image::from_bytes(image.clone()).unwrap();
        // The crate numbers a V0 image with whiteouts as V1, as mkcomposefs does.
        let numbered = opened.superblock().composefs.unwrap();
        assert!(numbered == ours || (ours == ComposefsVersion::V0 && numbered == ComposefsVersion::V1));
        let theirs = dump_of_crate::<H>(&image);
        assert!(theirs.lines().count() > 20, "{theirs}");
        pretty_equal(&dump_of_ours(image), &theirs);
    }
}

fn pretty_equal(ours: &str, theirs: &str) {
    for (left, right) in ours.lines().zip(theirs.lines()) {
        assert_eq!(left, right);
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
}

#[test]
fn dump_equals_the_crates_own_for_every_kind_of_entry() {
    compare::<Sha256HashValue>(&special::<Sha256HashValue>());
    compare::<Sha512HashValue>(&special::<Sha512HashValue>());
}

#[test]
fn dump_equals_the_crates_own_for_large_directories() {
    compare::<Sha256HashValue>(&large::<Sha256HashValue>());
    compare::<Sha512HashValue>(&large::<Sha512HashValue>());
}
