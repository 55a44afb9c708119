//! The on-disk format: sizes, field offsets and flags. All integers are little-endian.
//!
//! Source: the kernel's `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst`; the composefs header and
//! the overlay attributes as libcomposefs 1.0.8 and the composefs crate write them.

/// Where the superblock is, whatever the block size.
pub const SUPERBLOCK_OFFSET: u64 = 1024;
/// `struct erofs_super_block`, without the extension slots.
pub const SUPERBLOCK_BYTES: u64 = 128;
/// `EROFS_SUPER_MAGIC_V1`.
pub const SUPERBLOCK_MAGIC: u32 = 0xe0f5_e1e2;
/// Smallest block size, as a power of two: 512 bytes.
pub const MIN_BLOCK_BITS: u8 = 9;
/// Largest block size, as a power of two: 64 KiB.
pub const MAX_BLOCK_BITS: u8 = 16;
/// Inodes are aligned to it; the inode number ("nid") counts such slots from the start of the metadata area.
pub const SLOT_BITS: u32 = 5;
/// Bytes of a slot.
pub const SLOT_BYTES: u64 = 1 << SLOT_BITS;
/// A block address that stands for a hole.
pub const NULL_BLOCK: u32 = u32::MAX;

/// Field offsets in `struct erofs_super_block`, from [`SUPERBLOCK_OFFSET`].
pub mod superblock {
    /// u32: [`super::SUPERBLOCK_MAGIC`].
    pub const MAGIC: u64 = 0;
    /// u32: CRC-32C over the rest of the first block, if [`super::feature::COMPAT_CHECKSUM`] is set.
    pub const CHECKSUM: u64 = 4;
    /// u32: features that a reader may ignore.
    pub const FEATURE_COMPAT: u64 = 8;
    /// u8: log2 of the block size.
    pub const BLOCK_BITS: u64 = 12;
    /// u8: 16-byte slots after the superblock.
    pub const EXTENSION_SLOTS: u64 = 13;
    /// u16: inode number of the root directory.
    pub const ROOT_NID: u64 = 14;
    /// u64: number of inodes, for statfs.
    pub const INODE_COUNT: u64 = 16;
    /// u64: seconds to which the mtime of compact inodes is relative; also called build time.
    pub const EPOCH_SECS: u64 = 24;
    /// u32: nanoseconds of the mtime of compact inodes.
    pub const EPOCH_NANOS: u64 = 32;
    /// u32: blocks of the image.
    pub const BLOCK_COUNT: u64 = 36;
    /// u32: first block of the metadata area.
    pub const META_BLOCK: u64 = 40;
    /// u32: first block of the shared extended attributes.
    pub const XATTR_BLOCK: u64 = 44;
    /// 16 bytes: UUID.
    pub const UUID: u64 = 48;
    /// 16 bytes: volume name, zero-padded.
    pub const VOLUME_NAME: u64 = 64;
    /// u32: features that a reader must know.
    pub const FEATURE_INCOMPAT: u64 = 80;
    /// u16: compression algorithms, a bitmap.
    pub const COMPRESSION_ALGORITHMS: u64 = 84;
    /// u16: number of further devices.
    pub const EXTRA_DEVICES: u64 = 86;
    /// u16: where the device table starts, in units of 128 bytes.
    pub const DEVICE_TABLE: u64 = 88;
    /// u8: log2 of directory block size relative to the block size; 0 is the only value in use.
    pub const DIRECTORY_BLOCK_BITS: u64 = 90;
    /// u8: number of long xattr name prefixes.
    pub const XATTR_PREFIX_COUNT: u64 = 91;
    /// u32: where they start, in units of 4 bytes.
    pub const XATTR_PREFIX_START: u64 = 92;
    /// u64: inode number of the packed file, 0 for none.
    pub const PACKED_NID: u64 = 96;
}

/// Bits of the superblock's two feature words.
pub mod feature {
    /// The superblock has a checksum.
    pub const COMPAT_CHECKSUM: u32 = 0x1;
    /// The inodes' times are mtimes.
    pub const COMPAT_MTIME: u32 = 0x2;
    /// Inodes' xattr headers have a name filter.
    pub const COMPAT_XATTR_FILTER: u32 = 0x4;
    /// Shared xattrs are in the metabox inode.
    pub const COMPAT_SHARED_XATTR_IN_METABOX: u32 = 0x8;
    /// The long xattr prefixes are outside any inode even if there is a packed one.
    pub const COMPAT_PLAIN_XATTR_PREFIXES: u32 = 0x10;

    /// LZ4 data is at the end of its block: compressed inodes only.
    pub const INCOMPAT_ZERO_PADDING: u32 = 0x1;
    /// Compression configurations follow the superblock; also big physical clusters.
    pub const INCOMPAT_COMPRESSION_CONFIGS: u32 = 0x2;
    /// Some inode is chunk-based (composefs does not set it).
    pub const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
    /// Data on further devices; the same bit means a second compression algorithm per file.
    pub const INCOMPAT_DEVICE_TABLE: u32 = 0x8;
    /// Tails of compressed files are inline: compressed inodes only.
    pub const INCOMPAT_TAIL_PACKING: u32 = 0x10;
    /// There is a packed inode, for fragments and long xattr prefixes; or compressed data is shared.
    pub const INCOMPAT_FRAGMENTS: u32 = 0x20;
    /// There are long xattr name prefixes.
    pub const INCOMPAT_XATTR_PREFIXES: u32 = 0x40;
    /// 48-bit block addresses.
    pub const INCOMPAT_48BIT: u32 = 0x80;
    /// Metadata within a compressed inode.
    pub const INCOMPAT_METABOX: u32 = 0x100;
}

/// Field offsets in both inode forms, and their sizes.
pub mod inode {
    /// `struct erofs_inode_compact`.
    pub const COMPACT_BYTES: u64 = 32;
    /// `struct erofs_inode_extended`.
    pub const EXTENDED_BYTES: u64 = 64;

    /// u16, both: bit 0 = extended, bits 1–3 = data layout.
    pub const FORMAT: u64 = 0;
    /// u16, both: size of the inline xattrs in words, see [`super::xattr`].
    pub const XATTR_COUNT: u64 = 2;
    /// u16, both: `st_mode`.
    pub const MODE: u64 = 4;
    /// u32 in the compact, u64 in the extended form.
    pub const SIZE: u64 = 8;
    /// u32, both: first block, device number or chunk format.
    pub const UNION: u64 = 16;
    /// u32, both: inode number for 32-bit `stat`.
    pub const INO: u64 = 20;

    /// u16.
    pub const COMPACT_NLINK: u64 = 6;
    /// u32: seconds after the superblock's epoch (0 before Linux 6.15).
    pub const COMPACT_MTIME: u64 = 12;
    /// u16.
    pub const COMPACT_UID: u64 = 24;
    /// u16.
    pub const COMPACT_GID: u64 = 26;

    /// u32.
    pub const EXTENDED_UID: u64 = 24;
    /// u32.
    pub const EXTENDED_GID: u64 = 28;
    /// u64: seconds, two's complement.
    pub const EXTENDED_MTIME: u64 = 32;
    /// u32.
    pub const EXTENDED_MTIME_NANOS: u64 = 40;
    /// u32.
    pub const EXTENDED_NLINK: u64 = 44;

    /// Bit of [`FORMAT`]: the extended form.
    pub const FORMAT_EXTENDED: u16 = 1;
    /// Where the data layout starts in [`FORMAT`].
    pub const FORMAT_LAYOUT_SHIFT: u16 = 1;
    /// Its mask, after the shift.
    pub const FORMAT_LAYOUT_MASK: u16 = 0b111;
    /// All bits of [`FORMAT`] that have a meaning here.
    pub const FORMAT_KNOWN: u16 = 0b1111;

    /// Whole blocks, one extent.
    pub const LAYOUT_PLAIN: u16 = 0;
    /// Compressed, non-compact indexes.
    pub const LAYOUT_COMPRESSED_FULL: u16 = 1;
    /// Whole blocks, then the tail behind the inode and its xattrs.
    pub const LAYOUT_INLINE: u16 = 2;
    /// Compressed, compact indexes.
    pub const LAYOUT_COMPRESSED_COMPACT: u16 = 3;
    /// A table of chunks behind the inode and its xattrs.
    pub const LAYOUT_CHUNKED: u16 = 4;
}

/// Chunk-based inodes: the low half of the union is the chunk format.
pub mod chunk {
    /// log2 of the chunk size relative to the block size.
    pub const FORMAT_BITS_MASK: u32 = 0x1f;
    /// The table has 8-byte indexes, else 4-byte block addresses.
    pub const FORMAT_INDEXES: u32 = 0x20;
    /// Block addresses of 48 bits.
    pub const FORMAT_48BIT: u32 = 0x40;
    /// All bits that have a meaning.
    pub const FORMAT_KNOWN: u32 = 0x7f;
    /// The union's half that is the chunk format; the other half is reserved.
    pub const FORMAT_MASK: u32 = 0xffff;
    /// An entry of a block map.
    pub const BLOCK_MAP_ENTRY_BYTES: u64 = 4;
    /// An entry of an index: u16 high half of the block, u16 device, u32 block.
    pub const INDEX_BYTES: u64 = 8;
    /// Offset of the u32 block in an index.
    pub const INDEX_BLOCK: u64 = 4;
}

/// Directory blocks: an array of entries, then their names, in byte order.
pub mod dirent {
    /// `struct erofs_dirent`.
    pub const BYTES: u64 = 12;
    /// u64: inode number.
    pub const NID: u64 = 0;
    /// u16: offset of the name in the block; the first one tells the number of entries.
    pub const NAME_OFFSET: u64 = 8;
    /// u8: `EROFS_FT_*`, the kernel's `FT_*`.
    pub const FILE_TYPE: u64 = 10;

    /// Not known.
    pub const TYPE_UNKNOWN: u8 = 0;
    /// Regular file.
    pub const TYPE_REGULAR: u8 = 1;
    /// Directory.
    pub const TYPE_DIRECTORY: u8 = 2;
    /// Character device.
    pub const TYPE_CHAR_DEVICE: u8 = 3;
    /// Block device.
    pub const TYPE_BLOCK_DEVICE: u8 = 4;
    /// FIFO.
    pub const TYPE_FIFO: u8 = 5;
    /// Socket.
    pub const TYPE_SOCKET: u8 = 6;
    /// Symbolic link.
    pub const TYPE_SYMLINK: u8 = 7;
}

/// Extended attributes. Inline size in bytes: 0 if the inode's count is 0, else 12 + 4 × (count − 1).
pub mod xattr {
    /// `struct erofs_xattr_ibody_header`.
    pub const HEADER_BYTES: u64 = 12;
    /// u32: a name filter; a set bit means "not present".
    pub const NAME_FILTER: u64 = 0;
    /// u8: number of references to shared entries, u32 each, right after the header.
    pub const SHARED_COUNT: u64 = 4;
    /// Entries, references and references' targets are aligned to it, and count in it.
    pub const WORD_BYTES: u64 = 4;

    /// `struct erofs_xattr_entry`, without name and value.
    pub const ENTRY_BYTES: u64 = 4;
    /// u8: bytes of the name after its prefix.
    pub const NAME_BYTES: u64 = 0;
    /// u8: which prefix, or with [`LONG_PREFIX`] which long one.
    pub const NAME_INDEX: u64 = 1;
    /// u16: bytes of the value.
    pub const VALUE_BYTES: u64 = 2;
    /// Bit of the name index: a long prefix.
    pub const LONG_PREFIX: u8 = 0x80;

    /// Prefixes by name index; the kernel knows no index 0, composefs means "no prefix" by it.
    pub const PREFIXES: [&[u8]; 7] = [
        b"",
        b"user.",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
        b"trusted.",
        b"lustre.",
        b"security.",
    ];
    /// composefs's index without a prefix; the kernel does not show such an attribute.
    pub const INDEX_NONE: u8 = 0;
    /// The kernel does not show these either.
    pub const INDEX_LUSTRE: u8 = 5;
    /// Seed of the name filter's xxh32.
    pub const FILTER_SEED: u32 = 0x25bb_e08f;
}

/// The composefs header at offset 0 and what composefs means by overlay attributes.
pub mod composefs {
    /// Bytes of the header; the rest up to the superblock is zero.
    pub const HEADER_BYTES: u64 = 32;
    /// u32: [`MAGIC_VALUE`].
    pub const MAGIC: u64 = 0;
    /// u32: version of the image format, 1.
    pub const FORMAT_VERSION: u64 = 4;
    /// u32: [`FLAG_HAS_ACL`].
    pub const FLAGS: u64 = 8;
    /// u32: 0, 1 or 2; see [`super::super::ComposefsVersion`].
    pub const COMPOSEFS_VERSION: u64 = 12;
    /// `LCFS_EROFS_MAGIC`.
    pub const MAGIC_VALUE: u32 = 0xd078_629a;
    /// The one value of [`FORMAT_VERSION`].
    pub const FORMAT_VERSION_VALUE: u32 = 1;
    /// Some inode has a POSIX ACL.
    pub const FLAG_HAS_ACL: u32 = 1;

    /// What overlayfs keeps for itself.
    pub const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";
    /// What overlayfs shows as `trusted.overlay.*`.
    pub const OVERLAY_ESCAPED_PREFIX: &[u8] = b"trusted.overlay.overlay.";
    /// The regular file's content is elsewhere; value: see [`super::metacopy`].
    pub const METACOPY: &[u8] = b"trusted.overlay.metacopy";
    /// Where: `/` and the object's path below `objects/`.
    pub const REDIRECT: &[u8] = b"trusted.overlay.redirect";
    /// On the root of V0 and V1: nothing below shows through.
    pub const OPAQUE: &[u8] = b"trusted.overlay.opaque";
    /// V0, V1: this regular file stands for a user's character device 0:0.
    pub const ESCAPED_WHITEOUT: &[u8] = b"trusted.overlay.overlay.whiteout";
    /// The same for overlays mounted with `userxattr`.
    pub const USER_WHITEOUT: &[u8] = b"user.overlay.whiteout";
    /// V0, V1: the directory holds such files.
    pub const ESCAPED_WHITEOUTS: &[u8] = b"trusted.overlay.overlay.whiteouts";
    /// The same for `userxattr`.
    pub const USER_WHITEOUTS: &[u8] = b"user.overlay.whiteouts";
    /// Beside the former, value `x`.
    pub const ESCAPED_OPAQUE: &[u8] = b"trusted.overlay.overlay.opaque";
    /// The same for `userxattr`.
    pub const USER_OPAQUE: &[u8] = b"user.overlay.opaque";
}

/// Value of `trusted.overlay.metacopy`: `struct ovl_metacopy`, or empty for "no digest".
pub mod metacopy {
    /// Bytes before the digest.
    pub const HEADER_BYTES: u64 = 4;
    /// u8: 0.
    pub const VERSION: u64 = 0;
    /// u8: length of the whole value.
    pub const LENGTH: u64 = 1;
    /// u8: 0.
    pub const FLAGS: u64 = 2;
    /// u8: fs-verity's number of the hash function.
    pub const ALGORITHM: u64 = 3;
}
