//! What firmware judges before it starts a file: PE headers, PKCS #7 signatures, X.509 certificates.
//!
//! Only parsing and hashing; the rules by which EDK II and shim judge, chains and keys are Python's. Structures are
//! decoded by `object`, `cms` and `x509-cert`; every byte is a stranger's.

mod certificate;
mod der_items;
mod name;
mod pe;
mod pkcs7;

pub use certificate::{AuthorityKey, Certificate, GeneralName, NameConstraints};
pub use pe::{HashAlgorithm, Headers, Part, PeError, PeImage, Section};
pub use pkcs7::{SignedData, SignerInfo};

/// The encoding is not what it has to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Asn1Error {
    /// It is no DER, or of another type.
    #[error("{what}: {source}")]
    Malformed {
        /// The part.
        what: &'static str,
        /// What the decoder says.
        source: der::Error,
    },
    /// There is nothing where something has to be.
    #[error("{what} is missing")]
    Missing {
        /// The part.
        what: &'static str,
    },
    /// More of them than anything real has.
    #[error("it has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many would do.
        limit: usize,
    },
}

impl Asn1Error {
    /// For `map_err`.
    fn of(what: &'static str) -> impl FnOnce(der::Error) -> Self {
        move |source| Self::Malformed { what, source }
    }
}
