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
