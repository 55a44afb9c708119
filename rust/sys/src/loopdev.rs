//! Loop devices that the kernel detaches by itself, for kernels that mount no plain file.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{self, Ioctl, IoctlOutput, NoArg, Opcode, Setter};

const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// How often another process may snatch the free device before this gives up.
const MAX_RACES: u32 = 64;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// `LOOP_CTL_GET_FREE`: the number of a free device comes as the call's return value.
struct GetFree(NoArg<LOOP_CTL_GET_FREE>);

// SAFETY: the request takes no argument, and the return value is a number, which is copied.
unsafe impl Ioctl for GetFree {
    type Output = u32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.0.as_ptr()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<Self::Output> {
        u32::try_from(out).map_err(|_| Errno::INVAL)
    }
}

/// Which device refused, and why.
#[derive(Debug)]
pub struct LoopFailure {
    /// What the system call said.
    pub error: io::Error,
    /// `/dev/loop-control` or the device.
    pub path: PathBuf,
}

impl LoopFailure {
    fn at<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> Self {
        move |error| Self { error: error.into(), path: path.to_owned() }
    }
}

/// Attaches a file to a free loop device, read-only; the device is freed when its last user closes it.
///
/// Returns the open device, which keeps it attached until a mount does, and its path.
///
/// # Errors
/// Those of opening `/dev/loop*` and of the `loop(4)` requests.
pub fn attach(file: BorrowedFd<'_>) -> Result<(File, PathBuf), LoopFailure> {
    let known = Path::new("/dev/loop-control");
    let control = OpenOptions::new().read(true).write(true).open(known).map_err(LoopFailure::at(known))?;
    let number = u32::try_from(file.as_raw_fd()).map_err(|_| Errno::BADF).map_err(LoopFailure::at(known))?;
    let mut races = 0;
    loop {
        // SAFETY: `NoArg` passes no pointer, and the request takes none.
        let free = unsafe { ioctl::ioctl(control.as_fd(), GetFree(NoArg::new())) };
        let free = free.map_err(LoopFailure::at(known))?;
        let path = PathBuf::from(format!("/dev/loop{free}"));
        let device = OpenOptions::new().read(true).open(&path).map_err(LoopFailure::at(&path))?;
        match configure(&device, number) {
            Ok(()) => return Ok((device, path)),
            Err(Errno::BUSY) if races < MAX_RACES => races += 1,
            Err(errno) => return Err(LoopFailure::at(&path)(errno)),
        }
    }
}

fn configure(device: &File, file: u32) -> rustix::io::Result<()> {
    let info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let config = LoopConfig { fd: file, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: `LoopConfig` is `struct loop_config` of the kernel's interface, which the kernel only reads.
    unsafe { ioctl::ioctl(device.as_fd(), Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}
