//! `FS_IOC_ENABLE_VERITY`.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// `struct fsverity_enable_arg` (`linux/fsverity.h`), without salt and signature.
#[repr(C)]
#[derive(Debug)]
struct EnableArg {
    version: u32,
    hash_algorithm: u32,
    block_bytes: u32,
    salt_bytes: u32,
    salt: u64,
    signature_bytes: u32,
    reserved1: u32,
    signature: u64,
    reserved2: [u64; 11],
}

// SAFETY: the opcode is FS_IOC_ENABLE_VERITY with the size of its argument; the kernel reads the argument and
// nothing that it points to (both pointers are null with length 0), and writes nothing.
unsafe impl Ioctl for EnableArg {
    type Output = ();
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::write::<Self>(b'f', 133)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(_out: IoctlOutput, _arg: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Enables fs-verity without salt and signature on a file that is open for reading only.
///
/// # Errors
/// `EOPNOTSUPP` or `ENOTTY` where the file system has none, `ETXTBSY` while somebody can write to the file,
/// `EEXIST` where it is enabled.
pub fn enable_verity(file: BorrowedFd<'_>, hash_algorithm: u32, block_bytes: u32) -> Result<(), Errno> {
    let argument = EnableArg {
        version: 1,
        hash_algorithm,
        block_bytes,
        salt_bytes: 0,
        salt: 0,
        signature_bytes: 0,
        reserved1: 0,
        signature: 0,
        reserved2: [0; 11],
    };
    // SAFETY: see the implementation of `Ioctl` above.
    unsafe { ioctl(file, argument) }
}
