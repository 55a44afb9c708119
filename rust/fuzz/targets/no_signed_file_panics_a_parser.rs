//! Whatever a file, a signature or a certificate is: it is decoded or refused.
#![no_main]

use bootc_fast_core::cancel::Never;
use bootc_fast_core::efi::{Certificate, HashAlgorithm, Part, PeImage, SignedData};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Certificate::parse(data);
    if let Ok(signed) = SignedData::parse(data) {
        for der in &signed.certificates {
            let _ = Certificate::parse(der);
        }
    }
    let Ok(image) = PeImage::from_bytes(data.to_vec()) else { return };
    let parts: Vec<Part> = image
        .headers()
        .sections
        .iter()
        .map(|section| Part::File { offset: u64::from(section.offset), len: u64::from(section.raw_bytes) })
        .collect();
    let _ = image.hash(&parts, &[HashAlgorithm::Sha256], &Never);
});
