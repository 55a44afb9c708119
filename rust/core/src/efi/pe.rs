//! PE files: headers and sections, and digests over parts of the file.
//!
//! A file is read, never mapped: a bad sector is an error with its offset, and a kernel image of 300 MB costs one
//! buffer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use object::LittleEndian as LE;
use object::pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, ImageDosHeader, ImageNtHeaders32, ImageNtHeaders64};
use object::read::coff::CoffHeader;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::cancel::{Cancel, Cancelled, Ticker};
use crate::limits::{MAX_PE_HEADERS_BYTES, MAX_PE_SECTIONS};

const BUFFER_BYTES: usize = 1 << 18;
/// Of the checksum in the optional header, the same in PE32 and PE32+.
const CHECKSUM_OFFSET: u64 = 64;
/// Where the data directories start in the optional header of PE32 and of PE32+.
const DIRECTORIES_OFFSET: (u64, u64) = (96, 112);
const DIRECTORY_ENTRY_BYTES: u64 = 8;
/// Signature and file header, which precede the optional header.
const NT_HEADER_BYTES: u64 = 24;

/// What goes wrong with a PE file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeError {
    /// It cannot be read.
    #[error("reading at offset {offset:#x}: {source}")]
    Io {
        /// In the file.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// A structure is not what it has to be.
    #[error("{what} at offset {offset:#x} is malformed: {reason}")]
    Malformed {
        /// The structure.
        what: &'static str,
        /// In the file.
        offset: u64,
        /// What the parser says.
        reason: object::read::Error,
    },
    /// There are more than a loader takes.
    #[error("it has {found} sections, more than {limit}")]
    Sections {
        /// How many it has.
        found: usize,
        /// How many would do.
        limit: usize,
    },
    /// The caller's wish.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// One entry of the section table.
#[derive(Debug, Clone)]
pub struct Section {
    /// Eight bytes, padded with NUL.
    pub name: [u8; 8],
    /// In the file.
    pub offset: u32,
    /// In the file.
    pub raw_bytes: u32,
    /// In memory.
    pub virtual_address: u32,
    /// In memory.
    pub virtual_bytes: u32,
    /// Flags.
    pub characteristics: u32,
    /// Whether it has relocations of its own.
    pub has_relocations: bool,
}

/// What the headers say.
#[derive(Debug, Clone)]
pub struct Headers {
    /// Of the PE header in the file.
    pub header_offset: u64,
    /// PE32+.
    pub is_64: bool,
    /// Flags of the file header.
    pub characteristics: u16,
    /// Flags of the optional header.
    pub dll_characteristics: u16,
    /// Length of the optional header.
    pub optional_bytes: u16,
    /// How many data directories it says it has.
    pub directory_count: u32,
    /// `SizeOfHeaders`.
    pub headers_bytes: u32,
    /// `SizeOfImage`.
    pub image_bytes: u32,
    /// `FileAlignment`.
    pub file_alignment: u32,
    /// Of the 4 bytes that are not hashed.
    pub checksum_offset: u64,
    /// Of the 8 bytes of the security directory; `None` where the header has none.
    pub security_offset: Option<u64>,
    /// Where the table of signatures is in the file.
    pub signatures_offset: u32,
    /// How long it is.
    pub signatures_bytes: u32,
    /// In the order of the table.
    pub sections: Vec<Section>,
}

/// A digest that firmware knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// Old signatures.
    Sha1,
    /// The usual one.
    Sha256,
    /// SHA-2 with 384 bits.
    Sha384,
    /// SHA-2 with 512 bits.
    Sha512,
}

/// A part of what is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Bytes of the file.
    File {
        /// Where.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// So many zeros.
    Zeros(u64),
}

enum Hasher {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    fn new(algorithm: HashAlgorithm) -> Self {
        match algorithm {
            HashAlgorithm::Sha1 => Self::Sha1(Sha1::new()),
            HashAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
            HashAlgorithm::Sha384 => Self::Sha384(Sha384::new()),
            HashAlgorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha1(hasher) => hasher.update(data),
            Self::Sha256(hasher) => hasher.update(data),
            Self::Sha384(hasher) => hasher.update(data),
            Self::Sha512(hasher) => hasher.update(data),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(hasher) => hasher.finalize().to_vec(),
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
            Self::Sha384(hasher) => hasher.finalize().to_vec(),
            Self::Sha512(hasher) => hasher.finalize().to_vec(),
        }
    }
}

#[derive(Debug)]
enum Source {
    File(File),
    Bytes(Vec<u8>),
}

/// A PE file whose headers have been read.
#[derive(Debug)]
pub struct PeImage {
    source: Source,
    size: u64,
    headers: Headers,
}

impl PeImage {
    /// Reads the headers of a regular file.
    ///
    /// # Errors
    /// [`PeError`]: it cannot be read, or is no PE file.
    pub fn open(file: File) -> Result<Self, PeError> {
        let size = file.metadata().map_err(|source| PeError::Io { offset: 0, source })?.len();
        Self::new(Source::File(file), size)
    }

    /// Takes a file's content.
    ///
    /// # Errors
    /// [`PeError`]: it is no PE file.
    pub fn from_bytes(data: Vec<u8>) -> Result<Self, PeError> {
        let size = data.len() as u64;
        Self::new(Source::Bytes(data), size)
    }

    fn new(source: Source, size: u64) -> Result<Self, PeError> {
        let length = usize::try_from(size).unwrap_or(usize::MAX).min(MAX_PE_HEADERS_BYTES);
        let mut start = vec![0; length];
        read_exact(&source, &mut start, 0)?;
        let headers = parse_headers(&start)?;
        Ok(Self { source, size, headers })
    }

    /// Length of the file when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the headers say.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Reads a part of the file.
    ///
    /// # Errors
    /// [`PeError::Io`]: it does not lie within it, or cannot be read.
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, PeError> {
        // Not more memory than there are bytes, whatever a header says.
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size) {
            return Err(PeError::Io { offset, source: io::ErrorKind::UnexpectedEof.into() });
        }
        let mut data = vec![0; len];
        read_exact(&self.source, &mut data, offset)?;
        Ok(data)
    }

    /// Hashes parts, in one pass for all algorithms.
    ///
    /// # Errors
    /// [`PeError`]: a part does not lie within the file, or cannot be read; or cancelled.
    pub fn hash(
        &self,
        parts: &[Part],
        algorithms: &[HashAlgorithm],
        cancel: &dyn Cancel,
    ) -> Result<Vec<Vec<u8>>, PeError> {
        let mut hashers: Vec<Hasher> = algorithms.iter().map(|algorithm| Hasher::new(*algorithm)).collect();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut ticker = Ticker::new(cancel);
        for part in parts {
            let (mut offset, mut left) = match *part {
                Part::File { offset, len } => (Some(offset), len),
                Part::Zeros(len) => (None, len),
            };
            while left > 0 {
                ticker.tick_slow()?;
                let now = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_BYTES);
                let Some(chunk) = buffer.get_mut(..now) else { break };
                match &mut offset {
                    Some(offset) => {
                        read_exact(&self.source, chunk, *offset)?;
                        *offset = offset.saturating_add(now as u64);
                    }
                    None => chunk.fill(0),
                }
                for hasher in &mut hashers {
                    hasher.update(chunk);
                }
                left = left.saturating_sub(now as u64);
            }
        }
        Ok(hashers.into_iter().map(Hasher::finish).collect())
    }
}

fn read_exact(source: &Source, data: &mut [u8], offset: u64) -> Result<(), PeError> {
    let result = match source {
        Source::File(file) => file.read_exact_at(data, offset),
        Source::Bytes(bytes) => {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let found = bytes.get(start..).and_then(|rest| rest.get(..data.len()));
            found.map(|found| data.copy_from_slice(found)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        }
    };
    result.map_err(|source| PeError::Io { offset, source })
}

fn malformed(what: &'static str, offset: u64) -> impl FnOnce(object::read::Error) -> PeError {
    move |reason| PeError::Malformed { what, offset, reason }
}

fn parse_headers(data: &[u8]) -> Result<Headers, PeError> {
    let dos = ImageDosHeader::parse(data).map_err(malformed("the DOS header", 0))?;
    let offset = u64::from(dos.nt_headers_offset());
    match object::read::pe::optional_header_magic(data).map_err(malformed("the optional header", offset))? {
        object::pe::IMAGE_NT_OPTIONAL_HDR64_MAGIC => parse_nt::<ImageNtHeaders64>(data, offset, true),
        _ => parse_nt::<ImageNtHeaders32>(data, offset, false),
    }
}

fn parse_nt<Nt: ImageNtHeaders>(data: &[u8], header_offset: u64, is_64: bool) -> Result<Headers, PeError> {
    let mut offset = header_offset;
    let (nt, directories) =
        Nt::parse(data, &mut offset).map_err(malformed("the PE header", header_offset))?;
    let file = nt.file_header();
    let optional = nt.optional_header();
    let table = file.sections(data, offset).map_err(malformed("the section table", offset))?;
    if table.len() > MAX_PE_SECTIONS {
        return Err(PeError::Sections { found: table.len(), limit: MAX_PE_SECTIONS });
    }
    let sections = table.iter().map(|section| Section {
        name: section.name,
        offset: section.pointer_to_raw_data.get(LE),
        raw_bytes: section.size_of_raw_data.get(LE),
        virtual_address: section.virtual_address.get(LE),
        virtual_bytes: section.virtual_size.get(LE),
        characteristics: section.characteristics.get(LE).0,
        has_relocations: section.number_of_relocations.get(LE) != 0
            || section.pointer_to_relocations.get(LE) != 0,
    });
    let start = header_offset.saturating_add(NT_HEADER_BYTES);
    let first = if is_64 { DIRECTORIES_OFFSET.1 } else { DIRECTORIES_OFFSET.0 };
    let index = IMAGE_DIRECTORY_ENTRY_SECURITY;
    // `get` passes over entries that are empty, and those are hashed otherwise than none.
    let security = directories.iter().nth(index);
    let entry = u64::try_from(index).unwrap_or(0).saturating_mul(DIRECTORY_ENTRY_BYTES);
    Ok(Headers {
        header_offset,
        is_64,
        characteristics: file.characteristics.get(LE).0,
        dll_characteristics: optional.dll_characteristics().0,
        optional_bytes: file.size_of_optional_header.get(LE),
        directory_count: optional.number_of_rva_and_sizes(),
        headers_bytes: optional.size_of_headers(),
        image_bytes: optional.size_of_image(),
        file_alignment: optional.file_alignment(),
        checksum_offset: start.saturating_add(CHECKSUM_OFFSET),
        security_offset: security.map(|_| start.saturating_add(first).saturating_add(entry)),
        signatures_offset: security.map_or(0, |entry| entry.virtual_address.get(LE)),
        signatures_bytes: security.map_or(0, |entry| entry.size.get(LE)),
        sections: sections.collect(),
    })
}
