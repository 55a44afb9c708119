//! Writes an image with the composefs crate, for tests that mount it: `composefs-image 0|1|2 sha256|sha512`, dump
//! format on standard input, image on standard output.

use std::error::Error;
use std::io::{Read, Write, stdin, stdout};

use composefs::dumpfile::dumpfile_to_filesystem;
use composefs::erofs::format::FormatVersion;
use composefs::erofs::writer::{ValidatedFileSystem, mkfs_erofs_versioned};
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue};

fn write<H: FsVerityHashValue>(dump: &str, version: FormatVersion) -> Result<(), Box<dyn Error>> {
    let tree = ValidatedFileSystem::new(dumpfile_to_filesystem::<H>(dump)?)?;
    Ok(stdout().write_all(&mkfs_erofs_versioned(&tree, version))?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [version, algorithm] = arguments.as_slice() else { return Err("usage: VERSION ALGORITHM".into()) };
    let version = match version.as_str() {
        "0" => FormatVersion::V0,
        "1" => FormatVersion::V1,
        "2" => FormatVersion::V2,
        _ => return Err("the version is 0, 1 or 2".into()),
    };
    let mut dump = String::new();
    stdin().read_to_string(&mut dump)?;
    match algorithm.as_str() {
        "sha256" => write::<Sha256HashValue>(&dump, version),
        "sha512" => write::<Sha512HashValue>(&dump, version),
        _ => Err("the algorithm is sha256 or sha512".into()),
    }
}
