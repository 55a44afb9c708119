//! The superblock and the composefs header before it.

use super::bytes::Bytes;
use super::crc32c::crc32c;
use super::error::ErofsError;
use super::layout::{
    self, SUPERBLOCK_BYTES, SUPERBLOCK_MAGIC, SUPERBLOCK_OFFSET, composefs, feature, superblock,
};
use super::{ComposefsVersion, Nid};
use crate::tree::Timestamp;

/// What the superblock says, checked.
#[derive(Debug, Clone)]
pub struct Superblock {
    /// log2 of the block size.
    pub block_bits: u8,
    /// The root directory.
    pub root: Nid,
    /// Number of inodes, as written; nothing here relies on it.
    pub inode_count: u64,
    /// Size of the image in blocks.
    pub block_count: u32,
    /// What compact inodes' mtimes are relative to.
    pub epoch: Timestamp,
    /// [`feature`]`::COMPAT_*`.
    pub feature_compat: u32,
    /// [`feature`]`::INCOMPAT_*`.
    pub feature_incompat: u32,
    /// Random or derived from the content.
    pub uuid: [u8; 16],
    /// Zero-padded.
    pub volume_name: [u8; 16],
    /// `None`: no composefs image.
    pub composefs: Option<ComposefsVersion>,
    pub(super) meta_offset: u64,
    pub(super) xattr_offset: u64,
    pub(super) xattr_prefix_count: u8,
    pub(super) xattr_prefix_offset: u64,
    pub(super) packed: Option<Nid>,
}

/// Incompatible features that stop us, by the name that goes into the message.
const UNSUPPORTED: [(u32, &str); 6] = [
    (feature::INCOMPAT_ZERO_PADDING, "compression (LZ4 with zero padding)"),
    (feature::INCOMPAT_COMPRESSION_CONFIGS, "compression (configurations, big physical clusters)"),
    (feature::INCOMPAT_DEVICE_TABLE, "several devices or compression heads"),
    (feature::INCOMPAT_TAIL_PACKING, "compression (packed tails)"),
    (feature::INCOMPAT_48BIT, "48-bit block addresses"),
    (feature::INCOMPAT_METABOX, "metadata in a metabox inode"),
];
const SUPPORTED: u32 =
    feature::INCOMPAT_CHUNKED_FILE | feature::INCOMPAT_FRAGMENTS | feature::INCOMPAT_XATTR_PREFIXES;

impl Superblock {
    /// Reads and checks it.
    ///
    /// # Errors
    /// [`ErofsError`] of any kind that a format error has.
    pub fn read(image: &Bytes<'_>) -> Result<Self, ErofsError> {
        let block = image.part("the superblock", SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES)?;
        let magic = block.u32("magic", superblock::MAGIC)?;
        if magic != SUPERBLOCK_MAGIC {
            return Err(bad("the EROFS magic", magic));
        }
        let block_bits = block.u8("block size", superblock::BLOCK_BITS)?;
        if !(layout::MIN_BLOCK_BITS..=layout::MAX_BLOCK_BITS).contains(&block_bits) {
            return Err(bad("the block size (log2, 9 to 16)", block_bits.into()));
        }
        let compat = block.u32("features", superblock::FEATURE_COMPAT)?;
        if compat & feature::COMPAT_CHECKSUM != 0 {
            check_checksum(image, &block, block_bits)?;
        }
        let incompat = block.u32("features", superblock::FEATURE_INCOMPAT)?;
        check_features(&block, compat, incompat)?;
        let composefs = composefs_version(image)?;
        let parsed = Self::parse(&block, block_bits, compat, incompat, composefs)?;
        // A cut-off image must not pass for a smaller one.
        let expected = parsed.in_blocks(parsed.block_count);
        if expected > image.len() {
            return Err(ErofsError::CutOff { len: image.len(), expected });
        }
        Ok(parsed)
    }

    fn parse(
        block: &Bytes<'_>,
        block_bits: u8,
        feature_compat: u32,
        feature_incompat: u32,
        composefs: Option<ComposefsVersion>,
    ) -> Result<Self, ErofsError> {
        let word = |offset| block.u32("superblock field", offset);
        let has_prefixes = feature_incompat & feature::INCOMPAT_XATTR_PREFIXES != 0;
        let prefix_count = block.u8("xattr prefixes", superblock::XATTR_PREFIX_COUNT)?;
        let nanos = word(superblock::EPOCH_NANOS)?;
        if nanos >= 1_000_000_000 {
            return Err(bad("the epoch's nanoseconds", nanos));
        }
        let secs = block.u64("epoch", superblock::EPOCH_SECS)?.cast_signed();
        let plain_prefixes = feature_compat & feature::COMPAT_PLAIN_XATTR_PREFIXES != 0;
        let has_packed = feature_incompat & feature::INCOMPAT_FRAGMENTS != 0 && !plain_prefixes;
        let packed = block.u64("packed inode", superblock::PACKED_NID)?;
        let mut parsed = Self {
            block_bits,
            root: Nid(block.u16("root inode", superblock::ROOT_NID)?.into()),
            inode_count: block.u64("inode count", superblock::INODE_COUNT)?,
            block_count: word(superblock::BLOCK_COUNT)?,
            epoch: Timestamp { secs, nanos },
            feature_compat,
            feature_incompat,
            uuid: sixteen(block, superblock::UUID)?,
            volume_name: sixteen(block, superblock::VOLUME_NAME)?,
            composefs,
            meta_offset: 0,
            xattr_offset: 0,
            xattr_prefix_count: if has_prefixes { prefix_count } else { 0 },
            xattr_prefix_offset: u64::from(word(superblock::XATTR_PREFIX_START)?).saturating_mul(4),
            packed: (has_packed && packed != 0).then_some(Nid(packed)),
        };
        parsed.meta_offset = parsed.in_blocks(word(superblock::META_BLOCK)?);
        parsed.xattr_offset = parsed.in_blocks(word(superblock::XATTR_BLOCK)?);
        Ok(parsed)
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        1u64.checked_shl(self.block_bits.into()).unwrap_or(u64::MAX)
    }

    /// Byte offset of a block; cannot overflow: 32 bits times 64 KiB.
    pub(super) fn in_blocks(&self, blocks: u32) -> u64 {
        u64::from(blocks).saturating_mul(self.block_bytes())
    }
}

fn bad(what: &'static str, found: u32) -> ErofsError {
    ErofsError::BadValue { what, offset: SUPERBLOCK_OFFSET, found: found.into() }
}

fn sixteen(block: &Bytes<'_>, offset: u64) -> Result<[u8; 16], ErofsError> {
    let part = block.part("superblock field", offset, 16)?;
    Ok(part.read()?.try_into().unwrap_or_default())
}

/// Over the rest of the first block, the checksum itself taken as zero; over a whole block where the superblock
/// is at its start (`erofs_superblock_csum_verify`).
fn check_checksum(image: &Bytes<'_>, block: &Bytes<'_>, block_bits: u8) -> Result<(), ErofsError> {
    let expected = block.u32("checksum", superblock::CHECKSUM)?;
    let block_bytes = 1u64.checked_shl(block_bits.into()).unwrap_or(u64::MAX);
    let covered = match block_bytes.checked_sub(SUPERBLOCK_OFFSET) {
        None | Some(0) => block_bytes,
        Some(rest) => rest,
    };
    let after = superblock::CHECKSUM.saturating_add(4);
    let data = image.part("the checksummed block", SUPERBLOCK_OFFSET, covered)?;
    let head = data.part("magic", superblock::MAGIC, superblock::CHECKSUM)?;
    let tail = data.from("the checksummed block", after)?;
    let found = crc32c(crc32c(crc32c(!0, head.read()?), &[0; 4]), tail.read()?);
    if found == expected { Ok(()) } else { Err(ErofsError::Checksum { expected, found }) }
}

fn check_features(block: &Bytes<'_>, compat: u32, incompat: u32) -> Result<(), ErofsError> {
    let named = UNSUPPORTED.iter().find(|(bit, _)| incompat & bit != 0);
    if let Some((bit, feature)) = named {
        return Err(ErofsError::Unsupported { feature, value: (*bit).into() });
    }
    if incompat & !SUPPORTED != 0 {
        let value = (incompat & !SUPPORTED).into();
        return Err(ErofsError::Unsupported { feature: "unknown incompatible feature bits", value });
    }
    if compat & feature::COMPAT_SHARED_XATTR_IN_METABOX != 0 {
        return Err(ErofsError::Unsupported { feature: "xattrs in a metabox inode", value: compat.into() });
    }
    let directory_bits = block.u8("directory block size", superblock::DIRECTORY_BLOCK_BITS)?;
    if directory_bits != 0 {
        let value = directory_bits.into();
        return Err(ErofsError::Unsupported { feature: "directory blocks of another size", value });
    }
    let devices = block.u16("devices", superblock::EXTRA_DEVICES)?;
    if devices != 0 {
        return Err(ErofsError::Unsupported { feature: "several devices", value: devices.into() });
    }
    Ok(())
}

fn composefs_version(image: &Bytes<'_>) -> Result<Option<ComposefsVersion>, ErofsError> {
    let header = image.part("the composefs header", 0, composefs::HEADER_BYTES)?;
    if header.u32("composefs magic", composefs::MAGIC)? != composefs::MAGIC_VALUE {
        return Ok(None);
    }
    let format = header.u32("composefs format", composefs::FORMAT_VERSION)?;
    if format != composefs::FORMAT_VERSION_VALUE {
        return Err(ErofsError::Unsupported { feature: "composefs format version", value: format.into() });
    }
    let number = header.u32("composefs version", composefs::COMPOSEFS_VERSION)?;
    match ComposefsVersion::from_number(number) {
        Some(version) => Ok(Some(version)),
        None => Err(ErofsError::Unsupported { feature: "composefs version", value: number.into() }),
    }
}
