//! Elements of DER, one after the other, without the order and uniqueness that a SET OF should have.
//!
//! OpenSSL, which judges, takes sets as they come; the types of `cms` refuse or sort them.

use der::asn1::AnyRef;
use der::{Decode, Encode, Reader, SliceReader, Tag};

use super::Asn1Error;

/// Most elements of one sequence: certificates of a signature, extensions, names.
const MAX_ITEMS: usize = 1024;

/// The first element of `data`, as it is encoded, and what follows it.
pub fn split_first<'a>(data: &'a [u8], what: &'static str) -> Result<(&'a [u8], &'a [u8]), Asn1Error> {
    let mut reader = SliceReader::new(data).map_err(Asn1Error::of(what))?;
    let first = reader.tlv_bytes().map_err(Asn1Error::of(what))?;
    Ok((first, data.get(first.len()..).unwrap_or_default()))
}

/// All elements of a constructed value.
pub fn items<'a>(mut content: &'a [u8], what: &'static str) -> Result<Vec<&'a [u8]>, Asn1Error> {
    let mut found = Vec::new();
    while !content.is_empty() {
        if found.len() >= MAX_ITEMS {
            return Err(Asn1Error::TooMany { what, limit: MAX_ITEMS });
        }
        let (item, rest) = split_first(content, what)?;
        found.push(item);
        content = rest;
    }
    Ok(found)
}

/// An element's tag and content.
pub fn any<'a>(item: &'a [u8], what: &'static str) -> Result<AnyRef<'a>, Asn1Error> {
    AnyRef::from_der(item).map_err(Asn1Error::of(what))
}

/// The content of an element that has to have this tag.
pub fn content_of<'a>(item: &'a [u8], tag: Tag, what: &'static str) -> Result<&'a [u8], Asn1Error> {
    let any = any(item, what)?;
    der::Tagged::tag(&any).assert_eq(tag).map_err(Asn1Error::of(what))?;
    Ok(any.value())
}

/// The number of a context-specific tag.
pub fn context_number(tag: Tag) -> Option<u8> {
    match tag {
        Tag::ContextSpecific { number, .. } => Some(number.value()),
        _ => None,
    }
}

/// The whole encoding of what was decoded.
pub fn encode(value: &impl Encode, what: &'static str) -> Result<Vec<u8>, Asn1Error> {
    value.to_der().map_err(Asn1Error::of(what))
}
