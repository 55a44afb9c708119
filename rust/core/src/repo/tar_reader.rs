//! Tar archives as records: header blocks with what pax and GNU extensions say about them.
//!
//! The blocks are parsed by the `tar` crate, the sequence is read here: the crate splits pax records at newlines,
//! and names and attribute values may hold such. Source: POSIX.1-2024, `pax`, "Extended Header"; GNU tar manual,
//! "Basic Tar Format".

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::limits::MAX_TAR_EXTENSION_BYTES;

const BLOCK_BYTES: u64 = 512;
/// Prefix of the pax records that hold extended attributes.
const PAX_XATTR: &[u8] = b"SCHILY.xattr.";

/// Key and value of each record, in their order.
type Pax = Vec<PaxRecord>;
type PaxRecord = (Vec<u8>, Vec<u8>);

/// One file of an archive, before its data.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) header: Header,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    /// Bytes of data that follow.
    pub(super) size_bytes: u64,
    pax: Pax,
}

impl Record {
    /// The last value that pax records have for a key.
    pub(super) fn pax(&self, key: &[u8]) -> Option<&[u8]> {
        last(&self.pax, key)
    }

    /// Extended attributes, the last of a name.
    pub(super) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let named =
            |(key, value): &PaxRecord| key.strip_prefix(PAX_XATTR).map(|name| (name.to_vec(), value.clone()));
        let all: std::collections::BTreeMap<_, _> = self.pax.iter().filter_map(named).collect();
        all.into_iter().collect()
    }

    /// A decimal pax record, or else what the header has.
    pub(super) fn number(&self, key: &[u8], header: io::Result<u64>) -> io::Result<u64> {
        match self.pax(key) {
            Some(text) => decimal(text).ok_or_else(|| bad("a pax record is no number")),
            None => header,
        }
    }
}

fn last<'p>(pax: &'p Pax, key: &[u8]) -> Option<&'p [u8]> {
    pax.iter().rev().find(|(found, _)| found == key).map(|(_, value)| value.as_slice())
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

pub(super) fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads an archive once, from its start.
pub(super) struct TarReader<'r> {
    input: &'r mut dyn Read,
    /// Data of the current record that was not asked for.
    left_bytes: u64,
    padding_bytes: u64,
    global: Pax,
}

impl<'r> TarReader<'r> {
    pub(super) fn new(input: &'r mut dyn Read) -> Self {
        Self { input, left_bytes: 0, padding_bytes: 0, global: Pax::new() }
    }

    /// The next file; `None` at the end of the archive.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        let mut pax = self.global.clone();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let own_size = header.entry_size()?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let records = self.extension(own_size)?;
                    pax.extend(parse_pax(&records)?);
                }
                EntryType::XGlobalHeader => {
                    let records = self.extension(own_size)?;
                    self.global.extend(parse_pax(&records)?);
                    pax.extend(parse_pax(&records)?);
                }
                EntryType::GNULongName => long_path = Some(until_nul(self.extension(own_size)?)),
                EntryType::GNULongLink => long_link = Some(until_nul(self.extension(own_size)?)),
                _ => return self.record(header, own_size, pax, long_path, long_link).map(Some),
            }
        }
    }

    fn record(
        &mut self,
        header: Header,
        own_size: u64,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Record> {
        let of_pax = |key: &[u8]| last(&pax, key).map(<[u8]>::to_vec);
        let path = of_pax(b"path").or(long_path).unwrap_or_else(|| header.path_bytes().into_owned());
        let in_header = || header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
        let link = of_pax(b"linkpath").or(long_link).unwrap_or_else(in_header);
        let size_bytes = match last(&pax, b"size") {
            Some(text) => decimal(text).ok_or_else(|| bad("the pax size is no number"))?,
            None => own_size,
        };
        if pax.iter().any(|(key, _)| key.starts_with(b"GNU.sparse.")) {
            return Err(bad("sparse files of archives are not supported"));
        }
        // Links have no data whatever their size field says (POSIX allows it for hard links; nobody writes it).
        let has_data = matches!(header.entry_type(), EntryType::Regular | EntryType::Continuous);
        let size_bytes = if has_data { size_bytes } else { 0 };
        self.expect(size_bytes);
        Ok(Record { header, path, link, size_bytes, pax })
    }

    /// Reads data of the current record; 0 at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        loop {
            match self.input.read(buffer.get_mut(..room).unwrap_or_default()) {
                Ok(0) => return Err(bad("the archive ends within a file")),
                Ok(read) => {
                    self.left_bytes = self.left_bytes.saturating_sub(read as u64);
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn expect(&mut self, size_bytes: u64) {
        self.left_bytes = size_bytes;
        self.padding_bytes = size_bytes.wrapping_neg() % BLOCK_BYTES;
    }

    fn skip(&mut self) -> io::Result<()> {
        let rest = self.left_bytes.saturating_add(self.padding_bytes);
        let skipped = io::copy(&mut (&mut self.input).take(rest), &mut io::sink())?;
        if skipped < rest {
            return Err(bad("the archive ends within a file"));
        }
        self.expect(0);
        Ok(())
    }

    /// The next header block; `None` at zeros, or where the archive just ends, which tar too accepts.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0usize;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(bad("the archive ends within a header")),
                Ok(read) => filled = filled.saturating_add(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The checksum counts itself as blanks.
        let blanks = 8 * u32::from(b' ');
        let others = block.iter().zip(0usize..).filter(|(_, at)| !(148..156).contains(at));
        let sum: u32 = others.map(|(byte, _)| u32::from(*byte)).sum();
        if header.cksum().ok() != Some(sum.saturating_add(blanks)) {
            return Err(bad("the checksum of a header is wrong; is this a tar archive, uncompressed?"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size_bytes: u64) -> io::Result<Vec<u8>> {
        if size_bytes > MAX_TAR_EXTENSION_BYTES {
            return Err(bad("an extended header is larger than MAX_TAR_EXTENSION_BYTES"));
        }
        self.expect(size_bytes);
        let mut data = Vec::new();
        (&mut self.input).take(size_bytes).read_to_end(&mut data)?;
        if (data.len() as u64) < size_bytes {
            return Err(bad("the archive ends within an extended header"));
        }
        self.left_bytes = 0;
        Ok(data)
    }
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    name.truncate(len);
    name
}

/// Records `<length> <key>=<value>\n`; the length, in decimal, counts itself.
fn parse_pax(mut data: &[u8]) -> io::Result<Pax> {
    let mut records = Pax::new();
    while !data.is_empty() {
        let (record, rest) = split_record(data).ok_or_else(|| bad("a malformed pax record"))?;
        records.push(record);
        data = rest;
    }
    Ok(records)
}

fn split_record(data: &[u8]) -> Option<(PaxRecord, &[u8])> {
    let space = data.iter().position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(data.get(..space)?)?).ok()?;
    let (record, rest) = data.split_at_checked(len)?;
    let body = record.get(space.checked_add(1)?..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let (key, value) = body.split_at_checked(equals)?;
    Some(((key.to_vec(), value.get(1..)?.to_vec()), rest))
}
