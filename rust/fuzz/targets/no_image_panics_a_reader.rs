//! Whatever the bytes are: every reader ends, with a result or an error, and those that succeed agree.
#![no_main]

use std::io::sink;

use bootc_fast_core::cancel::Never;
use bootc_fast_core::erofs::{ErofsError, Image};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(image) = Image::from_bytes(data.to_vec()) else { return };
    let dumped = image.dump(&mut sink(), &Never);
    let verified = image.verify(&Never);
    let tree = image.tree(b"", &Never);
    for path in [b"etc".as_slice(), b"etc/passwd", b"a/b", b".."] {
        let _ = image.lookup(path);
        let _ = image.copy_file(path, &mut sink(), &Never);
        let _ = image.tree(path, &Never);
    }
    if verified.is_ok() {
        // An image that is whole can be read in every way, but a dump is for composefs images only.
        let is_dumped = matches!(dumped, Ok(()) | Err(ErofsError::Unsupported { .. }));
        assert!(is_dumped, "verified, and cannot be dumped: {dumped:?}");
        assert!(tree.is_ok(), "verified, and is no tree: {:?}", tree.err());
    }
});
