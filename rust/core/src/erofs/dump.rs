//! The composefs dump format, as `composefs-info dump` prints it: one line a file, in the order of the walk.
//!
//! Shows the tree that the image was made from: a user's whiteouts as the devices that they were, the attributes
//! that composefs added left out. Source: composefs-dump(5); the composefs crate's `dumpfile.rs`.

use std::collections::HashMap;
use std::io::Write;

use super::dir::lossy;
use super::error::ErofsError;
use super::image::Image;
use super::inode::{DataLayout, Inode, Nid};
use super::layout::composefs;
use super::view::{metacopy_digest, redirect_digest, value_of};
use super::walk::Walk;
use super::xattr::XattrRef;
use super::xattr_name::Name;
use crate::cancel::{Cancel, Ticker};
use crate::limits::MAX_DUMP_CONTENT_BYTES;
use crate::tree::FileType;
use crate::verity::Digest;

const TYPE_MASK: u32 = 0o170_000;
const TYPE_CHAR_DEVICE: u32 = 0o020_000;

/// Attributes that composefs adds to whiteouts and their directories.
const ADDED: [&[u8]; 6] = [
    composefs::ESCAPED_WHITEOUT,
    composefs::ESCAPED_WHITEOUTS,
    composefs::ESCAPED_OPAQUE,
    composefs::USER_WHITEOUT,
    composefs::USER_WHITEOUTS,
    composefs::USER_OPAQUE,
];

impl Image {
    /// Writes the dump of a composefs image.
    ///
    /// # Errors
    /// [`ErofsError::Unsupported`] for another image, [`ErofsError::Io`] of `out`, what is corrupt, cancellation.
    pub fn dump(&self, out: &mut dyn Write, cancel: &dyn Cancel) -> Result<(), ErofsError> {
        if self.superblock().composefs.is_none() {
            let feature = "a dump of an image without a composefs header";
            return Err(ErofsError::Unsupported { feature, value: 0 });
        }
        let mut ticker = Ticker::counting(cancel, self.superblock().inode_count);
        let mut reader = self.reader()?;
        let mut walk = Walk::new(reader.image()?, b"")?;
        let mut first_names = HashMap::new();
        let mut line = Vec::new();
        loop {
            let image = reader.image()?;
            let Some(inode) = walk.next(image)? else { break };
            ticker.count(1);
            ticker.tick()?;
            line.clear();
            let xattrs = image.stored_xattrs(&inode, true)?;
            let entry = Entry { image, walk: &walk, inode: &inode, xattrs };
            entry.write(&mut line, &mut first_names)?;
            out.write_all(&line)?;
        }
        Ok(ticker.finish()?)
    }
}

struct Entry<'i> {
    image: &'i Image,
    walk: &'i Walk,
    inode: &'i Inode,
    xattrs: Vec<XattrRef<'i>>,
}

impl Entry<'_> {
    fn write(&self, line: &mut Vec<u8>, first_names: &mut HashMap<Nid, Vec<u8>>) -> Result<(), ErofsError> {
        let (inode, path) = (self.inode, self.walk.path());
        let is_escaped = inode.file_type() == FileType::Regular
            && value_of(&self.xattrs, composefs::ESCAPED_WHITEOUT).is_some();
        let is_whiteout = is_escaped || self.image.is_hidden(inode);
        if is_whiteout && self.walk.depth() == 1 && is_stub_name(path) {
            return Ok(());
        }
        push_path(line, path);
        if inode.stat.nlink > 1 && inode.file_type() != FileType::Directory {
            if let Some(first) = first_names.get(&inode.nid) {
                line.extend_from_slice(b" 0 @120000 - - - - 0.0 ");
                push_path(line, first);
                line.extend_from_slice(b" - -\n");
                return Ok(());
            }
            first_names.insert(inode.nid, path.to_vec());
        }
        self.write_numbers(line, is_escaped);
        if is_escaped {
            line.extend_from_slice(b"- - -");
        } else {
            self.write_payload(line)?;
        }
        self.write_xattrs(line);
        line.push(b'\n');
        Ok(())
    }

    fn write_numbers(&self, line: &mut Vec<u8>, is_escaped: bool) {
        let stat = &self.inode.stat;
        let (mode, size) = if is_escaped {
            (stat.mode & !TYPE_MASK | TYPE_CHAR_DEVICE, 0)
        } else {
            (stat.mode, stat.size_bytes)
        };
        let (nlink, uid, gid, rdev) = (stat.nlink, stat.uid, stat.gid, stat.rdev);
        line.push(b' ');
        push_number::<10>(line, size);
        line.push(b' ');
        push_number::<8>(line, mode.into());
        for number in [nlink.into(), uid.into(), gid.into(), rdev] {
            line.push(b' ');
            push_number::<10>(line, number);
        }
        line.push(b' ');
        if stat.mtime.secs < 0 {
            line.push(b'-');
        }
        push_number::<10>(line, stat.mtime.secs.unsigned_abs());
        line.push(b'.');
        push_number::<10>(line, stat.mtime.nanos.into());
        line.push(b' ');
    }

    /// Target or object path, inline content, digest.
    fn write_payload(&self, line: &mut Vec<u8>) -> Result<(), ErofsError> {
        match self.inode.file_type() {
            FileType::Symlink => {
                push_field(line, &self.image.symlink_target(self.inode)?);
                line.extend_from_slice(b" - -");
            }
            FileType::Regular => match self.object()? {
                Some(digest) => {
                    let mut buffer = [0; 128];
                    let hex = digest.hex(&mut buffer);
                    let (first, rest) = hex.split_at_checked(2).unwrap_or((hex, b""));
                    for part in [first, b"/", rest, b" - ", hex] {
                        line.extend_from_slice(part);
                    }
                }
                None => self.write_content(line)?,
            },
            _ => line.extend_from_slice(b"- - -"),
        }
        Ok(())
    }

    fn write_content(&self, line: &mut Vec<u8>) -> Result<(), ErofsError> {
        line.extend_from_slice(b"- ");
        // Chunk-based without an object: a sparse file, of which the format keeps the size only.
        if self.inode.layout == DataLayout::Chunked {
            line.push(b'-');
        } else {
            push_field(line, &self.image.data(self.inode, "MAX_DUMP_CONTENT_BYTES", MAX_DUMP_CONTENT_BYTES)?);
        }
        line.extend_from_slice(b" -");
        Ok(())
    }

    /// More lenient than a view: the digest of `metacopy` is enough, as in images of ostree's.
    fn object(&self) -> Result<Option<Digest>, ErofsError> {
        let fail = |what| ErofsError::BadObject { path: lossy(self.walk.path()), what };
        let metacopy = value_of(&self.xattrs, composefs::METACOPY).map_or(Ok(None), metacopy_digest);
        let redirect = || value_of(&self.xattrs, composefs::REDIRECT).and_then(redirect_digest);
        Ok(metacopy.map_err(fail)?.or_else(redirect))
    }

    fn write_xattrs(&self, line: &mut Vec<u8>) {
        let is_added = |name: Name<'_>| ADDED.iter().any(|added| name.is(added));
        let shown = self.xattrs.iter().filter_map(|xattr| Some((xattr, xattr.name.unescaped()?)));
        let mut shown: Vec<(Name<'_>, &[u8])> = shown
            .filter_map(|(xattr, name)| (!is_added(xattr.name)).then_some((name, xattr.value)))
            .collect();
        // Unescaping can change the order.
        shown.sort_unstable();
        for (name, value) in shown {
            line.push(b' ');
            name.parts().for_each(|part| push_escaped(line, part, true));
            line.push(b'=');
            push_escaped(line, value, true);
        }
    }
}

/// `00` to `ff`, in either case as the composefs crate has it.
fn is_stub_name(name: &[u8]) -> bool {
    name.len() == 2 && name.iter().all(u8::is_ascii_hexdigit)
}

fn push_path(line: &mut Vec<u8>, path: &[u8]) {
    line.push(b'/');
    push_escaped(line, path, false);
}

/// A field for which `-` means empty.
fn push_field(line: &mut Vec<u8>, field: &[u8]) {
    match field {
        b"" => line.push(b'-'),
        b"-" => line.extend_from_slice(b"\\x2d"),
        _ => push_escaped(line, field, false),
    }
}

/// Seven of them a line: what formats anything takes a fifth of a dump.
fn push_number<const BASE: u8>(line: &mut Vec<u8>, number: u64) {
    // 2^64 has 20 decimal, 22 octal digits.
    let mut digits = [b'0'; 22];
    let mut rest = number;
    let mut len = 0usize;
    for digit in digits.iter_mut().rev() {
        let (more, last) = (rest.checked_div(BASE.into()), rest.checked_rem(BASE.into()));
        *digit = b'0'.saturating_add(last.and_then(|last| u8::try_from(last).ok()).unwrap_or(0));
        len = len.saturating_add(1);
        rest = more.unwrap_or(0);
        if rest == 0 {
            break;
        }
    }
    line.extend_from_slice(digits.get(digits.len().saturating_sub(len)..).unwrap_or_default());
}

fn push_escaped(line: &mut Vec<u8>, bytes: &[u8], escape_equals: bool) {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let is_plain =
        |byte: u8| matches!(byte, b'!'..=b'~') && byte != b'\\' && (byte != b'=' || !escape_equals);
    let mut rest = bytes;
    loop {
        let plain = rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len());
        let (plain, special) = rest.split_at_checked(plain).unwrap_or((rest, b""));
        line.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else { return };
        match byte {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            _ => {
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or_default();
                line.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 15)]);
            }
        }
        rest = after;
    }
}
