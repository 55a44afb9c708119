//! Opens a repository with the composefs crate, lets it check everything, and dumps an image of it:
//! `composefs-fsck REPOSITORY IMAGE-DIGEST`, dump format on standard output.

use std::error::Error;
use std::fs::File;
use std::io::{Read, stdout};

use composefs::dumpfile::write_dumpfile;
use composefs::erofs::reader::erofs_to_filesystem;
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue};
use composefs::repository::Repository;
use tokio::runtime::Builder;

fn check<H: FsVerityHashValue>(path: &str, digest: &str) -> Result<(), Box<dyn Error>> {
    let mut repository = Repository::<H>::open_path(File::open(path)?, ".")?;
    // This machine's file systems may have no fs-verity; the crate then computes the digests itself.
    repository.set_insecure();
    let result = Builder::new_current_thread().build()?.block_on(repository.fsck())?;
    if !result.is_ok() {
        return Err(format!("{result}").into());
    }
    let (image, _) = repository.open_image(digest)?;
    let mut bytes = Vec::new();
    File::from(image).read_to_end(&mut bytes)?;
    write_dumpfile(&mut stdout(), &erofs_to_filesystem::<H>(&bytes)?)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, digest] = arguments.as_slice() else { return Err("usage: REPOSITORY IMAGE-DIGEST".into()) };
    match digest.len() {
        64 => check::<Sha256HashValue>(path, digest),
        128 => check::<Sha512HashValue>(path, digest),
        _ => Err("the digest has neither 64 nor 128 characters".into()),
    }
}
