//! Container images in a composefs repository, as bootc's own crate writes and reads them:
//! `composefs-oci pull sha256|sha512 REPOSITORY LAYOUT` takes in an OCI layout directory and prints the manifest's
//! digest; `composefs-oci show sha256|sha512 REPOSITORY MANIFEST-DIGEST` tags an image, checks all of the repository and
//! prints the image as JSON.

use std::error::Error;
use std::fs::File;
use std::io::{Write, stdout};
use std::path::Path;
use std::sync::Arc;

use composefs::fsverity::{Algorithm, FsVerityHashValue, Sha256HashValue, Sha512HashValue};
use composefs::repository::{Repository, RepositoryConfig};
use composefs_oci::oci_layout::{OciLayoutKind, import_oci_layout};
use composefs_oci::{NullReporter, OciDigest, OciImage, oci_fsck_image, tag_image};
use tokio::runtime::{Builder, Runtime};

const TAG: &str = "shown";

fn start() -> Result<Runtime, Box<dyn Error>> {
    Ok(Builder::new_multi_thread().worker_threads(1).build()?)
}

fn pull<H: FsVerityHashValue>(repository: &str, layout: &str) -> Result<(), Box<dyn Error>> {
    // This machine's file systems may have no fs-verity; the crate then computes the digests itself.
    let config = RepositoryConfig::new(Algorithm::for_hash::<H>()).set_insecure();
    let (opened, _) = Repository::<H>::init_path(File::open("/")?, Path::new(repository), config)?;
    let (opened, kind, layout) = (Arc::new(opened), OciLayoutKind::Directory, Path::new(layout));
    let importing = import_oci_layout(&opened, kind, layout, None, Arc::new(NullReporter));
    let (result, _) = start()?.block_on(importing)?;
    Ok(writeln!(stdout(), "{}", result.manifest_digest)?)
}

fn show<H: FsVerityHashValue>(repository: &str, manifest: &str) -> Result<(), Box<dyn Error>> {
    let mut opened = Repository::<H>::open_path(File::open(repository)?, ".")?;
    opened.set_insecure();
    let digest: OciDigest = manifest.parse()?;
    let image = OciImage::open(&opened, &digest, None)?;
    // The check finds images by their tags only.
    tag_image(&opened, &digest, TAG)?;
    let result = start()?.block_on(oci_fsck_image(&opened, TAG))?;
    if !result.is_ok() {
        return Err(format!("{result}").into());
    }
    Ok(writeln!(stdout(), "{}", image.inspect_json(&opened)?)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["pull", "sha256", repository, layout] => pull::<Sha256HashValue>(repository, layout),
        ["pull", "sha512", repository, layout] => pull::<Sha512HashValue>(repository, layout),
        ["show", "sha256", repository, manifest] => show::<Sha256HashValue>(repository, manifest),
        ["show", "sha512", repository, manifest] => show::<Sha512HashValue>(repository, manifest),
        _ => Err("usage: pull|show sha256|sha512 REPOSITORY LAYOUT|MANIFEST-DIGEST".into()),
    }
}
