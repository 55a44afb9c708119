//! Whatever a tar archive says: it is taken in or refused, and an image of what was taken in can be written.
#![no_main]

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use bootc_fast_core::cancel::Never;
use bootc_fast_core::erofs::{Image, to_image};
use bootc_fast_core::repo::{IngestOptions, Repository};
use bootc_fast_core::verity::Algorithm;
use libfuzzer_sys::fuzz_target;

/// One repository for all inputs, as on a host; objects that are there already are not stored again.
fn repository() -> &'static Repository {
    static REPOSITORY: OnceLock<Repository> = OnceLock::new();
    REPOSITORY.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("bootc-fast-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        let root = File::open(&path).expect("it was just made");
        Repository::open(root.as_fd(), Algorithm::Sha256, false).expect("an empty repository")
    })
}

fuzz_target!(|data: &[u8]| {
    let mut archive = data;
    let Ok(tree) = repository().ingest_tar(&mut archive, &IngestOptions::default(), &Never) else { return };
    if let Ok(image) = to_image(&tree, &Never) {
        let image = Image::from_bytes(image).expect("what was written opens");
        image.verify(&Never).expect("what was written is whole");
    }
});
