//! X.509 certificates: what OpenSSL looks at when it builds and checks a chain.

use der::asn1::{BitStringRef, ObjectIdentifier, OctetStringRef};
use der::{Decode, Tag, Tagged};
use spki::AlgorithmIdentifierOwned;
use x509_cert::certificate::{Raw, TbsCertificateInner};
use x509_cert::ext::Extension;

use super::Asn1Error;
use super::der_items::{any, content_of, context_number, encode, items, split_first};
use super::name::{canonical, canonical_der, text_of};

const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const KEY_USAGE: &str = "2.5.29.15";
const EXTENDED_KEY_USAGE: &str = "2.5.29.37";
const SUBJECT_KEY: &str = "2.5.29.14";
const AUTHORITY_KEY: &str = "2.5.29.35";
const ALTERNATIVE_NAMES: &str = "2.5.29.17";
const NAME_CONSTRAINTS: &str = "2.5.29.30";
const NETSCAPE_TYPE: &str = "2.16.840.1.113730.1.1";
const PROXY: &str = "1.3.6.1.5.5.7.1.14";
/// Critical extensions that OpenSSL handles: `X509_supported_extension`; further ones than those above are policies
/// and where lists of revoked certificates are.
const HANDLED: [&str; 12] = [
    NETSCAPE_TYPE,
    KEY_USAGE,
    ALTERNATIVE_NAMES,
    BASIC_CONSTRAINTS,
    "2.5.29.32",
    "2.5.29.31",
    EXTENDED_KEY_USAGE,
    "2.5.29.36",
    PROXY,
    NAME_CONSTRAINTS,
    "2.5.29.33",
    "2.5.29.54",
];
/// keyCertSign is bit 5, counted from the first.
const CERT_SIGN: u8 = 0x04;
/// Any CA, of the three that Netscape had.
const NETSCAPE_CA: u8 = 0x07;
const DIRECTORY_NAME: u8 = 4;

/// Kind (number of its tag) and content; a directory name is in canonical form.
pub type GeneralName = (u8, Vec<u8>);

/// What a certificate says about its issuer's key.
#[derive(Debug, Clone, Default)]
pub struct AuthorityKey {
    /// The issuer's subjectKeyIdentifier.
    pub key_id: Option<Vec<u8>>,
    /// Name of the issuer's issuer, in canonical form.
    pub issuer: Option<Vec<u8>>,
    /// Serial number of the issuer's certificate.
    pub serial: Option<Vec<u8>>,
}

/// Names that certificates below this one may and may not have.
#[derive(Debug, Clone, Default)]
pub struct NameConstraints {
    /// If there are any of a kind, one of them has to match.
    pub permitted: Vec<GeneralName>,
    /// None of these may match.
    pub excluded: Vec<GeneralName>,
    /// There is a minimum or a maximum, which OpenSSL refuses.
    pub has_bounds: bool,
}

/// A certificate, decoded but not verified.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // facts that a stranger states, in any combination
pub struct Certificate {
    /// All of it.
    pub der: Vec<u8>,
    /// The part that its issuer signed.
    pub tbs: Vec<u8>,
    /// `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
    /// Dotted.
    pub signature_algorithm: String,
    /// The algorithm's parameters as encoded; empty for none.
    pub signature_parameters: Vec<u8>,
    /// Whether the signed part names the same algorithm.
    pub is_algorithm_consistent: bool,
    /// Of the issuer.
    pub signature: Vec<u8>,
    /// Content of the INTEGER.
    pub serial: Vec<u8>,
    /// In canonical form.
    pub issuer: Vec<u8>,
    /// In canonical form.
    pub subject: Vec<u8>,
    /// For people.
    pub subject_text: String,
    /// Common names of the subject.
    pub common_names: Vec<String>,
    /// E-mail addresses in the subject.
    pub email_addresses: Vec<String>,
    /// Whether it is of version 1.
    pub is_v1: bool,
    /// basicConstraints: whether it is a CA; `None` without the extension.
    pub is_ca: Option<bool>,
    /// basicConstraints: how many CAs may follow.
    pub path_length: Option<u64>,
    /// keyUsage: whether it may sign certificates; `None` without the extension.
    pub may_sign_certificates: Option<bool>,
    /// Netscape's type says CA.
    pub is_netscape_ca: bool,
    /// extendedKeyUsage, dotted.
    pub extended_usages: Vec<String>,
    /// subjectKeyIdentifier.
    pub subject_key_id: Option<Vec<u8>>,
    /// authorityKeyIdentifier.
    pub authority_key: AuthorityKey,
    /// subjectAltName.
    pub alternative_names: Vec<GeneralName>,
    /// nameConstraints.
    pub name_constraints: Option<NameConstraints>,
    /// It is a proxy certificate.
    pub is_proxy: bool,
    /// Critical extensions that OpenSSL does not know, dotted.
    pub unhandled_critical: Vec<String>,
    /// Extensions that OpenSSL reads and that cannot be decoded or are there twice, dotted.
    pub malformed: Vec<String>,
}

impl Certificate {
    /// Decodes a certificate; nothing may follow it.
    ///
    /// # Errors
    /// [`Asn1Error`]: it is none that a chain could contain. An extension that cannot be decoded is no error.
    pub fn parse(data: &[u8]) -> Result<Self, Asn1Error> {
        let fields = items(content_of(data, Tag::Sequence, "Certificate")?, "Certificate")?;
        let [tbs_der, algorithm, signature] = fields.as_slice() else {
            return Err(Asn1Error::Missing { what: "signatureValue" });
        };
        let tbs = TbsCertificateInner::<Raw>::from_der(tbs_der).map_err(Asn1Error::of("TBSCertificate"))?;
        let algorithm =
            AlgorithmIdentifierOwned::from_der(algorithm).map_err(Asn1Error::of("signatureAlgorithm"))?;
        let bits = BitStringRef::from_der(signature).map_err(Asn1Error::of("signatureValue"))?;
        let signature = bits.as_bytes().ok_or(Asn1Error::Missing { what: "whole signatureValue" })?;
        let parameters = algorithm.parameters.as_ref().map(|any| encode(any, "parameters")).transpose()?;
        let mut found = Self {
            der: data.to_vec(),
            tbs: tbs_der.to_vec(),
            public_key: encode(&tbs.subject_public_key_info, "subjectPublicKeyInfo")?,
            signature_algorithm: algorithm.oid.to_string(),
            signature_parameters: parameters.unwrap_or_default(),
            is_algorithm_consistent: algorithm == tbs.signature,
            signature: signature.to_vec(),
            serial: tbs.serial_number.as_bytes().to_vec(),
            issuer: canonical(&tbs.issuer)?,
            subject: canonical(&tbs.subject)?,
            subject_text: tbs.subject.to_string(),
            common_names: texts_of(&tbs.subject, "2.5.4.3"),
            email_addresses: texts_of(&tbs.subject, "1.2.840.113549.1.9.1"),
            is_v1: tbs.version == x509_cert::certificate::Version::V1,
            is_ca: None,
            path_length: None,
            may_sign_certificates: None,
            is_netscape_ca: false,
            extended_usages: Vec::new(),
            subject_key_id: None,
            authority_key: AuthorityKey::default(),
            alternative_names: Vec::new(),
            name_constraints: None,
            is_proxy: false,
            unhandled_critical: Vec::new(),
            malformed: Vec::new(),
        };
        let mut seen = Vec::new();
        for extension in tbs.extensions.unwrap_or_default() {
            let kind = extension.extn_id.to_string();
            if extension.critical && !HANDLED.contains(&kind.as_str()) {
                found.unhandled_critical.push(kind.clone());
            }
            if (seen.contains(&kind) && is_read(&kind)) || found.take_extension(&kind, &extension).is_err() {
                found.malformed.push(kind.clone());
            }
            seen.push(kind);
        }
        Ok(found)
    }

    fn take_extension(&mut self, kind: &str, extension: &Extension) -> Result<(), Asn1Error> {
        let value = extension.extn_value.as_bytes();
        match kind {
            BASIC_CONSTRAINTS => {
                let fields =
                    items(content_of(value, Tag::Sequence, "basicConstraints")?, "basicConstraints")?;
                self.is_ca = Some(false);
                for field in fields {
                    let field = any(field, "basicConstraints")?;
                    match field.tag() {
                        Tag::Boolean => self.is_ca = Some(field.value() != [0]),
                        Tag::Integer => self.path_length = Some(number_of(field.value())?),
                        _ => return Err(Asn1Error::Missing { what: "basicConstraints" }),
                    }
                }
            }
            KEY_USAGE => {
                let bits = BitStringRef::from_der(value).map_err(Asn1Error::of("keyUsage"))?;
                self.may_sign_certificates = Some(first_byte(bits) & CERT_SIGN != 0);
            }
            NETSCAPE_TYPE => {
                let bits = BitStringRef::from_der(value).map_err(Asn1Error::of("netscape-cert-type"))?;
                self.is_netscape_ca = first_byte(bits) & NETSCAPE_CA != 0;
            }
            EXTENDED_KEY_USAGE => {
                for usage in items(content_of(value, Tag::Sequence, "extKeyUsage")?, "extKeyUsage")? {
                    let usage = ObjectIdentifier::from_der(usage).map_err(Asn1Error::of("extKeyUsage"))?;
                    self.extended_usages.push(usage.to_string());
                }
            }
            SUBJECT_KEY => {
                let id = OctetStringRef::from_der(value).map_err(Asn1Error::of("subjectKeyIdentifier"))?;
                self.subject_key_id = Some(id.as_bytes().to_vec());
            }
            AUTHORITY_KEY => self.authority_key = parse_authority_key(value)?,
            ALTERNATIVE_NAMES => {
                let names = content_of(value, Tag::Sequence, "subjectAltName")?;
                self.alternative_names = general_names(names)?;
            }
            NAME_CONSTRAINTS => self.name_constraints = Some(parse_name_constraints(value)?),
            PROXY => self.is_proxy = true,
            _ => {}
        }
        Ok(())
    }
}

/// Whether OpenSSL reads it: of others it does not matter how many there are.
fn is_read(kind: &str) -> bool {
    HANDLED.contains(&kind) || kind == SUBJECT_KEY || kind == AUTHORITY_KEY
}

fn first_byte(bits: BitStringRef<'_>) -> u8 {
    bits.raw_bytes().first().copied().unwrap_or(0)
}

fn number_of(content: &[u8]) -> Result<u64, Asn1Error> {
    let is_negative = content.first().is_none_or(|byte| byte & 0x80 != 0);
    if is_negative || content.len() > 8 {
        return Err(Asn1Error::Missing { what: "a number" });
    }
    Ok(content.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn texts_of(name: &x509_cert::name::Name, kind: &str) -> Vec<String> {
    let pairs = name.0.iter().flat_map(|relative| relative.0.iter());
    pairs
        .filter(|pair| pair.oid.to_string() == kind)
        .filter_map(|pair| text_of(pair.value.tag(), pair.value.value()))
        .collect()
}

fn general_name(item: &[u8]) -> Result<GeneralName, Asn1Error> {
    let found = any(item, "GeneralName")?;
    let number = context_number(found.tag()).ok_or(Asn1Error::Missing { what: "GeneralName" })?;
    let content =
        if number == DIRECTORY_NAME { canonical_der(found.value())? } else { found.value().to_vec() };
    Ok((number, content))
}

fn general_names(content: &[u8]) -> Result<Vec<GeneralName>, Asn1Error> {
    items(content, "GeneralNames")?.into_iter().map(general_name).collect()
}

fn parse_authority_key(value: &[u8]) -> Result<AuthorityKey, Asn1Error> {
    let mut found = AuthorityKey::default();
    for field in items(content_of(value, Tag::Sequence, "authorityKeyIdentifier")?, "authorityKeyIdentifier")?
    {
        let field = any(field, "authorityKeyIdentifier")?;
        match context_number(field.tag()) {
            Some(0) => found.key_id = Some(field.value().to_vec()),
            Some(1) => {
                let names = general_names(field.value())?;
                found.issuer = names.into_iter().find(|name| name.0 == DIRECTORY_NAME).map(|name| name.1);
            }
            Some(2) => found.serial = Some(field.value().to_vec()),
            _ => return Err(Asn1Error::Missing { what: "authorityKeyIdentifier" }),
        }
    }
    Ok(found)
}

fn parse_name_constraints(value: &[u8]) -> Result<NameConstraints, Asn1Error> {
    let mut found = NameConstraints::default();
    for field in items(content_of(value, Tag::Sequence, "nameConstraints")?, "nameConstraints")? {
        let field = any(field, "nameConstraints")?;
        let list = match context_number(field.tag()) {
            Some(0) => &mut found.permitted,
            Some(1) => &mut found.excluded,
            _ => return Err(Asn1Error::Missing { what: "nameConstraints" }),
        };
        for subtree in items(field.value(), "GeneralSubtree")? {
            let (base, bounds) =
                split_first(content_of(subtree, Tag::Sequence, "GeneralSubtree")?, "GeneralSubtree")?;
            found.has_bounds |= !bounds.is_empty();
            list.push(general_name(base)?);
        }
    }
    Ok(found)
}
