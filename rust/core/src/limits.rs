//! Every limit on untrusted input, with its reason. Hitting one is an error that names it, never a truncation.

/// Longest symlink target: `PATH_MAX` of Linux, which counts the terminating NUL.
pub const MAX_SYMLINK_BYTES: u64 = 4095;
/// Longest file name: `NAME_MAX`; EROFS's `EROFS_NAME_LEN` is the same.
pub const MAX_NAME_BYTES: usize = 255;
/// Deepest directory nesting we walk. Linux reaches about 2,000 with relative calls; a cycle reaches any depth.
pub const MAX_DEPTH: usize = 4096;
/// Largest extended attribute value: `XATTR_SIZE_MAX`.
pub const MAX_XATTR_BYTES: usize = 65536;
/// Most entries of one tree: 2^26; node ids are `u32` and a larger /etc or image is not a thing that exists.
pub const MAX_TREE_NODES: usize = 1 << 26;
/// Largest image that is read: 2^40 bytes; addresses have 47 bits to spare for it.
pub const MAX_IMAGE_BYTES: u64 = 1 << 40;
/// What a walk through an image keeps in memory of it: 16 MiB, and what its last inode needs. The images of most hosts
/// are smaller; a walk in the order of paths comes back to few places.
pub const MAX_KEPT_BYTES: usize = 1 << 24;
/// Most bytes of names and values of one inode's extended attributes: 16 times what `listxattr` can return;
/// 255 references to shared attributes of 64 KiB would make 16 MiB out of one KiB.
pub const MAX_INODE_XATTR_BYTES: usize = 1 << 20;
/// Most bytes of extended attributes of one tree: 1 GiB, a thousand bytes for each of a million files.
pub const MAX_TREE_XATTR_BYTES: u64 = 1 << 30;
/// Most bytes of file contents that are copied out of an image into a tree: 256 MiB. A composefs image has none
/// but files of up to 64 bytes; other images have all, and holes make files of any size out of nothing.
pub const MAX_TREE_CONTENT_BYTES: u64 = 1 << 28;
/// Most bytes of one file's content in a dump, where composefs has files of up to 64 bytes: 1 MiB.
pub const MAX_DUMP_CONTENT_BYTES: u64 = 1 << 20;
/// Largest extended header of a tar archive: a hundred xattrs of 64 KiB, which no root tree comes near.
pub const MAX_TAR_EXTENSION_BYTES: u64 = 1 << 23;
/// Headers of a PE file are looked for in this much of it: 1 MiB; those of systemd's stub have 1 KiB.
pub const MAX_PE_HEADERS_BYTES: usize = 1 << 20;
/// Most sections of a PE file: Microsoft's "PE Format", the loader takes no more.
pub const MAX_PE_SECTIONS: usize = 96;
