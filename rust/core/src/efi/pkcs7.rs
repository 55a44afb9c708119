//! PKCS #7 `SignedData`, as Authenticode has it and OpenSSL's `d2i_PKCS7` takes it.

use cms::content_info::ContentInfo;
use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use der::{Decode, SliceReader, Tag, Tagged};
use spki::AlgorithmIdentifierRef;

use super::Asn1Error;
use super::der_items::{any, content_of, context_number, encode, items, split_first};
use super::name::canonical_der;

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
/// Tag of a SET, which stands in for the implicit `[0]` when signed attributes are hashed.
const SET: u8 = 0x31;

/// One signature, decoded but not verified.
#[derive(Debug, Clone)]
pub struct SignedData {
    /// Of the digests that the content is hashed with, dotted.
    pub digest_algorithms: Vec<String>,
    /// Of the content, dotted.
    pub content_type: String,
    /// What is signed: the content's value without tag and length.
    pub content: Vec<u8>,
    /// In the order in which they are in it, as encoded.
    pub certificates: Vec<Vec<u8>>,
    /// Who signed.
    pub signers: Vec<SignerInfo>,
}

/// What one signer says.
#[derive(Debug, Clone)]
pub struct SignerInfo {
    /// Name of the issuer of the signer's certificate, in canonical form.
    pub issuer: Vec<u8>,
    /// Its serial number, content of the INTEGER.
    pub serial: Vec<u8>,
    /// Dotted.
    pub digest_algorithm: String,
    /// Dotted.
    pub signature_algorithm: String,
    /// The signed attributes as they are hashed; `None` where there are none.
    pub attributes: Option<Vec<u8>>,
    /// The attribute messageDigest.
    pub message_digest: Option<Vec<u8>>,
    /// What the key made.
    pub signature: Vec<u8>,
}

impl SignedData {
    /// Decodes `ContentInfo`; what follows it, e.g. padding, is not looked at.
    ///
    /// # Errors
    /// [`Asn1Error`]: it is no DER, or no `SignedData` of version 1 with signers named by issuer and serial number.
    pub fn parse(data: &[u8]) -> Result<Self, Asn1Error> {
        let (outer, _) = split_first(data, "ContentInfo")?;
        let info = ContentInfo::from_der(outer).map_err(Asn1Error::of("ContentInfo"))?;
        if info.content_type != SIGNED_DATA {
            return Err(Asn1Error::Missing { what: "SignedData" });
        }
        let signed = encode(&info.content, "SignedData")?;
        Self::parse_signed(content_of(&signed, Tag::Sequence, "SignedData")?)
    }

    fn parse_signed(content: &[u8]) -> Result<Self, Asn1Error> {
        let (_, rest) = split_first(content, "version")?;
        let (algorithms, rest) = split_first(rest, "digestAlgorithms")?;
        let (inner, rest) = split_first(rest, "contentInfo")?;
        let digest_algorithms =
            items(content_of(algorithms, Tag::Set, "digestAlgorithms")?, "digestAlgorithms")?
                .into_iter()
                .map(algorithm_of)
                .collect::<Result<_, _>>()?;
        let (content_type, content) = parse_inner(inner)?;
        let mut certificates = Vec::new();
        let mut signers = None;
        for item in items(rest, "SignedData")? {
            let found = any(item, "SignedData")?;
            match (context_number(found.tag()), found.tag()) {
                (Some(0), _) => {
                    certificates =
                        items(found.value(), "certificates")?.into_iter().map(<[u8]>::to_vec).collect();
                }
                (None, Tag::Set) => signers = Some(found),
                // Lists of revoked certificates: OpenSSL does not look at them here.
                _ => {}
            }
        }
        let signers = signers.ok_or(Asn1Error::Missing { what: "signerInfos" })?;
        let signers =
            items(signers.value(), "signerInfos")?.into_iter().map(parse_signer).collect::<Result<_, _>>()?;
        Ok(Self { digest_algorithms, content_type, content, certificates, signers })
    }
}

fn algorithm_of(item: &[u8]) -> Result<String, Asn1Error> {
    let found = AlgorithmIdentifierRef::from_der(item).map_err(Asn1Error::of("AlgorithmIdentifier"))?;
    Ok(found.oid.to_string())
}

fn parse_inner(item: &[u8]) -> Result<(String, Vec<u8>), Asn1Error> {
    let fields = items(content_of(item, Tag::Sequence, "contentInfo")?, "contentInfo")?;
    let missing = Asn1Error::Missing { what: "content" };
    let [kind, wrapped] = fields.as_slice() else { return Err(missing) };
    let kind = ObjectIdentifier::from_der(kind).map_err(Asn1Error::of("contentType"))?;
    let (inner, _) = split_first(any(wrapped, "content")?.value(), "content")?;
    Ok((kind.to_string(), any(inner, "content")?.value().to_vec()))
}

fn parse_signer(item: &[u8]) -> Result<SignerInfo, Asn1Error> {
    let fields = items(content_of(item, Tag::Sequence, "SignerInfo")?, "SignerInfo")?;
    let mut fields = fields.into_iter();
    let mut next = |what: &'static str| fields.next().ok_or(Asn1Error::Missing { what });
    next("version")?;
    // Another choice than a SEQUENCE names the key, which PKCS #7 does not know.
    let id = items(content_of(next("signer")?, Tag::Sequence, "signer")?, "signer")?;
    let [issuer, serial] = id.as_slice() else { return Err(Asn1Error::Missing { what: "serialNumber" }) };
    let digest_algorithm = algorithm_of(next("digestAlgorithm")?)?;
    let mut following = next("digestEncryptionAlgorithm")?;
    let (mut attributes, mut message_digest) = (None, None);
    let found = any(following, "authenticatedAttributes")?;
    if context_number(found.tag()) == Some(0) {
        // OpenSSL takes an empty set for none.
        if !found.value().is_empty() {
            message_digest = find_digest(found.value())?;
            let mut as_set = following.to_vec();
            if let Some(tag) = as_set.first_mut() {
                *tag = SET;
            }
            attributes = Some(as_set);
        }
        following = next("digestEncryptionAlgorithm")?;
    }
    let signature_algorithm = algorithm_of(following)?;
    let signature =
        OctetStringRef::from_der(next("encryptedDigest")?).map_err(Asn1Error::of("encryptedDigest"))?;
    Ok(SignerInfo {
        issuer: canonical_der(issuer)?,
        serial: content_of(serial, Tag::Integer, "serialNumber")?.to_vec(),
        digest_algorithm,
        signature_algorithm,
        attributes,
        message_digest,
        signature: signature.as_bytes().to_vec(),
    })
}

fn find_digest(content: &[u8]) -> Result<Option<Vec<u8>>, Asn1Error> {
    for item in items(content, "authenticatedAttributes")? {
        let fields = items(content_of(item, Tag::Sequence, "Attribute")?, "Attribute")?;
        let [kind, values] = fields.as_slice() else { return Err(Asn1Error::Missing { what: "values" }) };
        if ObjectIdentifier::from_der(kind).map_err(Asn1Error::of("Attribute"))? != MESSAGE_DIGEST {
            continue;
        }
        let (first, _) = split_first(content_of(values, Tag::Set, "messageDigest")?, "messageDigest")?;
        let mut reader = SliceReader::new(first).map_err(Asn1Error::of("messageDigest"))?;
        let value = AnyRef::decode(&mut reader).map_err(Asn1Error::of("messageDigest"))?;
        return Ok((value.tag() == Tag::OctetString).then(|| value.value().to_vec()));
    }
    Ok(None)
}
