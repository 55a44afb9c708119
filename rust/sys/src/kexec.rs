//! `kexec_file_load(2)`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

// linux/kexec.h
const FILE_UNLOAD: libc::c_ulong = 1;
const FILE_NO_INITRAMFS: libc::c_ulong = 4;

fn call(kernel: i32, initrd: i32, command_line: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let line = command_line.to_bytes_with_nul();
    // SAFETY: the kernel reads exactly the given number of bytes of a string that outlives the call, checks the
    // descriptors itself, and writes nothing to this process's memory.
    let result =
        unsafe { libc::syscall(libc::SYS_kexec_file_load, kernel, initrd, line.len(), line.as_ptr(), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Loads a kernel that the next `LINUX_REBOOT_CMD_KEXEC` starts; one that was loaded before is dropped.
///
/// # Errors
/// Those of `kexec_file_load(2)`: `ENOSYS` where the kernel has none, `EPERM` without `CAP_SYS_BOOT` or under
/// lockdown, `EKEYREJECTED` and its like where the signature is refused, `ENOEXEC` where it is no kernel.
pub fn load(kernel: BorrowedFd<'_>, initrd: Option<BorrowedFd<'_>>, command_line: &CStr) -> io::Result<()> {
    let flags = if initrd.is_some() { 0 } else { FILE_NO_INITRAMFS };
    call(kernel.as_raw_fd(), initrd.map_or(-1, |fd| fd.as_raw_fd()), command_line, flags)
}

/// Drops a loaded kernel; that none is loaded is no error.
///
/// # Errors
/// Those of `kexec_file_load(2)`.
pub fn unload() -> io::Result<()> {
    call(-1, -1, c"", FILE_UNLOAD)
}
