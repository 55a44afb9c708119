use super::meta::rendered;
use super::tar_reader::TarReader;
use super::tarball::parse_time;
use super::writer::IngestOptions;
use crate::tree::Timestamp;
use crate::verity::Algorithm;

#[test]
fn meta_json_is_json_and_ends_in_a_newline() {
    let text = rendered(Algorithm::Sha256);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["algorithm"], "fsverity-sha256-12");
    assert!(text.ends_with("}\n"));
}

#[test]
fn exclusion_covers_a_path_and_what_is_below_it() {
    let options =
        IngestOptions { squash_owner: None, exclude: vec![b"proc/*".to_vec(), b"var/cache".to_vec()] };
    let left_out = |path: &[u8]| options.leaves_out(path);
    assert!(
        left_out(b"proc/1") && left_out(b"proc/1/fd") && left_out(b"var/cache") && left_out(b"var/cache/apt")
    );
    assert!(
        !left_out(b"proc") && !left_out(b"process") && !left_out(b"var/cached") && !left_out(b"usr/proc/1")
    );
}

#[test]
fn pax_times_have_fractions_and_signs() {
    let cases: [(&[u8], i64, u32); 6] = [
        (b"12", 12, 0),
        (b"12.5", 12, 500_000_000),
        (b"12.0000000019", 12, 1),
        (b"-1.25", -2, 750_000_000),
        (b"-0.5", -1, 500_000_000),
        (b"-3", -3, 0),
    ];
    for (text, secs, nanos) in cases {
        assert_eq!(parse_time(text), Some(Timestamp { secs, nanos }), "{}", String::from_utf8_lossy(text));
    }
    for text in [&b""[..], b".5", b"1.x", b"1e3", b"9999999999999999999999"] {
        assert_eq!(parse_time(text), None, "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn every_truncation_of_an_archive_is_an_error_or_its_beginning() {
    let mut header = tar::Header::new_gnu();
    header.set_path("file").unwrap();
    header.set_size(700);
    header.set_mode(0o644);
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.extend_from_slice(&[b'x'; 700]);
    archive.resize(512 * 3, 0);
    let whole = archive.clone();
    for len in 0..whole.len() {
        let mut input = &whole[..len];
        let mut reader = TarReader::new(&mut input);
        match reader.next() {
            Ok(None) => assert_eq!(len, 0),
            Ok(Some(record)) => {
                assert_eq!(record.path, b"file");
                assert!(reader.next().is_err(), "{len} bytes");
            }
            Err(_) => assert!(len < 512),
        }
    }
}

#[test]
fn a_flipped_bit_in_a_header_is_noticed() {
    let mut header = tar::Header::new_ustar();
    header.set_path("file").unwrap();
    header.set_size(0);
    header.set_cksum();
    let mut block = header.as_bytes().to_vec();
    block[3] ^= 1;
    assert!(TarReader::new(&mut block.as_slice()).next().is_err());
}
