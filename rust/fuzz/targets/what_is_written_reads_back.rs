//! An image that can be read as a tree can be written, and what is written is read as the same tree; writing that
//! gives the same bytes again.
#![no_main]

use bootc_fast_core::cancel::Never;
use bootc_fast_core::erofs::{Image, to_image};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(image) = Image::from_bytes(data.to_vec()) else { return };
    let Ok(tree) = image.tree(b"", &Never) else { return };
    // What composefs has no form for is refused.
    let Ok(written) = to_image(&tree, &Never) else { return };
    let again = Image::from_bytes(written.clone()).expect("what was written opens");
    again.verify(&Never).expect("what was written is whole");
    let read = again.tree(b"", &Never).expect("what was written is a tree");
    assert_eq!(to_image(&read, &Never).expect("it was written before"), written);
});
