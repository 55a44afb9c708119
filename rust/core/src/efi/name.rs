//! Distinguished names, so that two compare equal where OpenSSL takes them for one.

use der::asn1::BmpString;
use der::{Decode, Tag, Tagged};
use x509_cert::name::Name;

use super::Asn1Error;
use super::der_items::encode;

/// Brings a name to the form in which OpenSSL compares: strings in UTF-8, lower case in ASCII, blanks folded.
///
/// Source: OpenSSL `crypto/x509/x_name.c`, `asn1_string_canon`.
pub fn canonical(name: &Name) -> Result<Vec<u8>, Asn1Error> {
    let mut out = Vec::new();
    for relative in &name.0 {
        let mut parts = Vec::new();
        for pair in relative.0.iter() {
            let mut part = encode(&pair.oid, "a name")?;
            match text_of(pair.value.tag(), pair.value.value()) {
                Some(text) => push_counted(&mut part, b's', &fold(&text)),
                None => push_counted(&mut part, b'r', &encode(&pair.value, "a name")?),
            }
            parts.push(part);
        }
        parts.sort();
        out.push(b'/');
        for part in parts {
            push_counted(&mut out, b'+', &part);
        }
    }
    Ok(out)
}

/// Decodes a name that stands alone.
pub fn canonical_der(der: &[u8]) -> Result<Vec<u8>, Asn1Error> {
    canonical(&Name::from_der(der).map_err(Asn1Error::of("a name"))?)
}

/// Kind, length and content: no content can pass for two.
fn push_counted(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(content.len() as u64).to_be_bytes());
    out.extend_from_slice(content);
}

/// The strings that OpenSSL converts, in UTF-8; `None` for what it compares byte for byte.
pub fn text_of(tag: Tag, value: &[u8]) -> Option<String> {
    match tag {
        Tag::Utf8String => String::from_utf8(value.to_vec()).ok(),
        // OpenSSL takes T.61 for Latin-1.
        Tag::TeletexString => Some(value.iter().map(|byte| char::from(*byte)).collect()),
        Tag::PrintableString | Tag::Ia5String | Tag::VisibleString => {
            Some(value.iter().map(|byte| char::from(*byte)).collect())
        }
        Tag::BmpString => BmpString::from_ucs2(value.to_vec()).ok().map(|text| text.to_string()),
        _ => None,
    }
}

fn fold(text: &str) -> Vec<u8> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');
    let mut out = Vec::with_capacity(text.len());
    for word in text.as_bytes().split(is_blank).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(b' ');
        }
        out.extend(word.iter().map(u8::to_ascii_lowercase));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn case_blanks_and_order_in_a_set_are_folded() {
        let of = |text: &str| canonical(&Name::from_str(text).unwrap()).unwrap();
        assert_eq!(of("CN=Test Root R"), of("CN=tEST root r"));
        assert_eq!(fold("  a \t B  "), b"a b");
        assert_ne!(of("CN=a,O=b"), of("O=b,CN=a"));
        assert_ne!(of("CN=ab"), of("CN=a b"));
        assert_eq!(fold("É x"), "É x".as_bytes());
    }

    #[test]
    fn the_type_of_a_string_does_not_matter() {
        assert_eq!(text_of(Tag::PrintableString, b"x"), text_of(Tag::Utf8String, b"x"));
        assert_eq!(text_of(Tag::BmpString, b"\0x"), text_of(Tag::Utf8String, b"x"));
        assert_eq!(text_of(Tag::TeletexString, b"\xe9"), text_of(Tag::Utf8String, "é".as_bytes()));
        assert_eq!(text_of(Tag::Integer, b"x"), None);
    }
}
