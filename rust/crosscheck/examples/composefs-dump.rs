//! Dumps an image with the composefs crate, as a peer for the benchmarks: `composefs-dump sha256|sha512 IMAGE`.

use std::error::Error;
use std::io::{Write, stdout};

use composefs::dumpfile::write_dumpfile;
use composefs::erofs::reader::erofs_to_filesystem;
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue};

fn dump<H: FsVerityHashValue>(image: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut out = Vec::new();
    write_dumpfile(&mut out, &erofs_to_filesystem::<H>(image)?)?;
    Ok(stdout().write_all(&out)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [algorithm, path] = arguments.as_slice() else { return Err("usage: ALGORITHM IMAGE".into()) };
    let image = std::fs::read(path)?;
    match algorithm.as_str() {
        "sha256" => dump::<Sha256HashValue>(&image),
        "sha512" => dump::<Sha512HashValue>(&image),
        _ => Err("the algorithm is sha256 or sha512".into()),
    }
}
