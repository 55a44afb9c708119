//! The only unsafe code of bootc-fast: system calls that no safe crate wraps, memory maps and SIMD lanes.
//! Every `unsafe` block says why it is sound; nothing here knows what bootc-fast is for.

pub mod enable_verity;
pub mod fd;
pub mod kexec;
pub mod lanes;
pub mod loopdev;
pub mod map;
pub mod mount;
pub mod namespace;
pub mod resolve;
pub mod sync;
pub mod verity;
pub mod xattrat;
