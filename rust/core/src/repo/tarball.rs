//! Taking in a tar archive.

use std::io::{self, Read};

use rustix::io::Errno;
use tar::EntryType;

use super::draft::{Draft, DraftContent, DraftNode, Slot};
use super::error::RepoError;
use super::object::NewObject;
use super::tar_reader::{Record, TarReader, bad};
use super::writer::{IngestOptions, MAX_INLINE_BYTES, Repository};
use crate::cancel::{Cancel, Ticker};
use crate::tree::{Stat, Timestamp, Tree};

/// Bytes read at once.
const BUFFER_BYTES: usize = 1 << 17;
/// Longer files are written while they are read.
const MAX_IN_MEMORY_BYTES: u64 = 1 << 20;

struct Ingest<'a> {
    repository: &'a Repository,
    options: &'a IngestOptions,
    draft: Draft,
    buffer: Vec<u8>,
}

pub(super) fn ingest(
    repository: &Repository,
    archive: &mut dyn Read,
    options: &IngestOptions,
    cancel: &dyn Cancel,
) -> Result<Tree, RepoError> {
    let draft = Draft::new(options.squashed(DraftNode::missing_directory()));
    let mut ingest = Ingest { repository, options, draft, buffer: vec![0; BUFFER_BYTES] };
    let mut ticker = Ticker::counting(cancel, 0);
    let mut reader = TarReader::new(archive);
    while let Some(record) = reader.next().map_err(|error| broken(b"", &error))? {
        ticker.count(1);
        ticker.tick()?;
        ingest.record(&record, &mut reader, &mut ticker)?;
    }
    Ok(ingest.draft.finish()?)
}

impl Ingest<'_> {
    fn record(
        &mut self,
        record: &Record,
        reader: &mut TarReader<'_>,
        ticker: &mut Ticker<'_>,
    ) -> Result<(), RepoError> {
        let names = names_of(&record.path)?;
        let path = names.join(&b'/');
        if self.options.leaves_out(&path) {
            return Ok(());
        }
        let Some((name, above)) = names.split_last() else {
            // `./`: the root itself.
            let node = self.node(record, 0o040_000, DraftContent::None, 0)?;
            self.draft.set_root(node);
            return Ok(());
        };
        let parent = self.directory(above, &path)?;
        let inode = if record.header.entry_type() == EntryType::Link {
            let target = names_of(&record.link)?;
            let found = self.find(&target).filter(|slot| !self.draft.is_dir(*slot));
            let inode = found.and_then(|slot| self.draft.inode(slot));
            inode.ok_or_else(|| broken(&path, &bad("a hard link to what is not in the archive before it")))?
        } else {
            let node = self.file(record, &path, reader, ticker)?;
            self.draft.add_inode(node)
        };
        self.draft.set(parent, name, inode);
        Ok(())
    }

    fn file(
        &mut self,
        record: &Record,
        path: &[u8],
        reader: &mut TarReader<'_>,
        ticker: &mut Ticker<'_>,
    ) -> Result<DraftNode, RepoError> {
        let (kind, content, size) = match record.header.entry_type() {
            // Before 1988 a directory was a file whose name ends in a slash.
            EntryType::Regular if record.path.ends_with(b"/") => (0o040_000, DraftContent::None, 0),
            EntryType::Regular | EntryType::Continuous => {
                (0o100_000, self.content(record, path, reader, ticker)?, record.size_bytes)
            }
            EntryType::Directory => (0o040_000, DraftContent::None, 0),
            EntryType::Symlink => {
                (0o120_000, DraftContent::Target(record.link.clone()), record.link.len() as u64)
            }
            EntryType::Char => (0o020_000, DraftContent::None, 0),
            EntryType::Block => (0o060_000, DraftContent::None, 0),
            EntryType::Fifo => (0o010_000, DraftContent::None, 0),
            _ => return Err(broken(path, &bad("an entry of an unknown type"))),
        };
        self.node(record, kind, content, size)
    }

    fn content(
        &mut self,
        record: &Record,
        path: &[u8],
        reader: &mut TarReader<'_>,
        ticker: &mut Ticker<'_>,
    ) -> Result<DraftContent, RepoError> {
        // What fits into memory is hashed there first: most of it is already an object when a second tree comes.
        if record.size_bytes <= MAX_IN_MEMORY_BYTES {
            let mut data = Vec::new();
            while let Some(piece) = self.piece(path, reader, ticker)? {
                data.extend_from_slice(piece);
            }
            if data.len() <= MAX_INLINE_BYTES {
                return Ok(DraftContent::Inline(data));
            }
            return self.repository.add_bytes(&data).map(DraftContent::Object);
        }
        let mut object = NewObject::create(self.repository.objects(), self.repository.params())?;
        while let Some(piece) = self.piece(path, reader, ticker)? {
            object.write(piece)?;
        }
        object.finish().map(DraftContent::Object)
    }

    fn piece(
        &mut self,
        path: &[u8],
        reader: &mut TarReader<'_>,
        ticker: &mut Ticker<'_>,
    ) -> Result<Option<&[u8]>, RepoError> {
        ticker.tick()?;
        let read = reader.read(&mut self.buffer).map_err(|error| broken(path, &error))?;
        Ok(self.buffer.get(..read).filter(|piece| !piece.is_empty()))
    }

    fn node(
        &self,
        record: &Record,
        kind: u32,
        content: DraftContent,
        size_bytes: u64,
    ) -> Result<DraftNode, RepoError> {
        let stat = stat_of(record, kind, size_bytes).map_err(|error| broken(&record.path, &error))?;
        Ok(self.options.squashed(DraftNode { stat, xattrs: record.xattrs(), content }))
    }

    /// The directory of these names, made where it is missing.
    fn directory(&mut self, names: &[&[u8]], path: &[u8]) -> Result<Slot, RepoError> {
        let mut slot = Draft::ROOT;
        for name in names {
            slot = match self.draft.child(slot, name) {
                Some(child) if self.draft.is_dir(child) => child,
                Some(_) => return Err(broken(path, &bad("something above it is not a directory"))),
                None => {
                    let inode = self.draft.add_inode(self.options.squashed(DraftNode::missing_directory()));
                    self.draft.set(slot, name, inode)
                }
            };
        }
        Ok(slot)
    }

    fn find(&self, names: &[&[u8]]) -> Option<Slot> {
        names.iter().try_fold(Draft::ROOT, |slot, name| self.draft.child(slot, name))
    }
}

impl IngestOptions {
    pub(super) fn squashed(&self, mut node: DraftNode) -> DraftNode {
        if let Some((uid, gid)) = self.squash_owner {
            (node.stat.uid, node.stat.gid) = (uid, gid);
        }
        node
    }
}

fn broken(path: &[u8], error: &io::Error) -> RepoError {
    if let Some(errno) = Errno::from_io_error(error) {
        // The archive itself where no entry was read.
        return RepoError::Io { what: "read", path: path.to_vec(), errno };
    }
    RepoError::Archive { path: path.to_vec(), what: error.to_string() }
}

/// The names of a path, without empty ones and `.`.
fn names_of(path: &[u8]) -> Result<Vec<&[u8]>, RepoError> {
    let names: Vec<_> =
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    if names.contains(&&b".."[..]) {
        return Err(broken(path, &bad("a path that leads upwards")));
    }
    Ok(names)
}

fn stat_of(record: &Record, kind: u32, size_bytes: u64) -> io::Result<Stat> {
    let header = &record.header;
    let small = |value: u64| u32::try_from(value).map_err(|_| bad("an owner of more than 32 bits"));
    let is_device = matches!(kind, 0o020_000 | 0o060_000);
    let device = |number: io::Result<Option<u32>>| number.map(Option::unwrap_or_default);
    let rdev = if is_device {
        rustix::fs::makedev(device(header.device_major())?, device(header.device_minor())?)
    } else {
        0
    };
    Ok(Stat {
        mode: kind | header.mode()? & 0o7777,
        uid: small(record.number(b"uid", header.uid())?)?,
        gid: small(record.number(b"gid", header.gid())?)?,
        nlink: 1,
        rdev,
        size_bytes,
        mtime: mtime_of(record)?,
    })
}

/// Seconds since 1970, in pax with a fraction of any length; before 1970 with a sign.
fn mtime_of(record: &Record) -> io::Result<Timestamp> {
    let Some(text) = record.pax(b"mtime") else {
        // A negative number is written in GNU's binary form, which the parser returns as its two's complement.
        return Ok(Timestamp { secs: record.header.mtime()?.cast_signed(), nanos: 0 });
    };
    parse_time(text).ok_or_else(|| bad("a time is no number"))
}

pub(super) fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let secs: i64 = whole.parse().ok()?;
    let digits = fraction.get(..fraction.len().min(9))?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{digits:0<9}").parse().ok()?;
    if nanos > 0 && text.starts_with('-') {
        // -1.25 is 2 seconds before 1970 and 0.75 after that.
        return Some(Timestamp { secs: secs.checked_sub(1)?, nanos: 1_000_000_000u32.checked_sub(nanos)? });
    }
    Some(Timestamp { secs, nanos })
}
