//! The kernel's measurement of a file that has fs-verity.

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// `FS_VERITY_MAX_DIGEST_SIZE`.
const MAX_DIGEST_BYTES: u16 = 64;

/// `struct fsverity_digest` with room for the longest digest.
#[repr(C)]
#[derive(Debug)]
struct Measurement {
    algorithm: u16,
    size: u16,
    digest: [u8; MAX_DIGEST_BYTES as usize],
}

/// `FS_IOC_MEASURE_VERITY`.
struct Measure(Measurement);

// SAFETY: the kernel reads `size` and writes at most that many bytes of digest behind it, all within the structure
// that `as_ptr` points to; `size` is set to the room that is there.
unsafe impl Ioctl for Measure {
    type Output = Measurement;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        // The type in the header is the structure without its flexible array: two u16.
        opcode::read_write::<[u16; 2]>(b'f', 134)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(_out: IoctlOutput, pointer: *mut c_void) -> rustix::io::Result<Measurement> {
        // SAFETY: the pointer is the one that `as_ptr` returned.
        Ok(unsafe { pointer.cast::<Measurement>().read() })
    }
}

/// Asks the kernel for a file's fs-verity digest, which it has without reading the file.
///
/// Returns the kernel's number of the algorithm and the digest; `None` where the file has no fs-verity or the file
/// system knows none.
///
/// # Errors
/// Any other `ioctl(2)` error.
pub fn measure(fd: BorrowedFd<'_>) -> io::Result<Option<(u16, Vec<u8>)>> {
    let request =
        Measure(Measurement { algorithm: 0, size: MAX_DIGEST_BYTES, digest: [0; MAX_DIGEST_BYTES as usize] });
    // SAFETY: the request is what this opcode takes (linux/fsverity.h); see `Measure`.
    match unsafe { ioctl(fd, request) } {
        Ok(Measurement { algorithm, size, digest }) => {
            let digest = digest.get(..usize::from(size)).map(<[u8]>::to_vec);
            Ok(digest.map(|digest| (algorithm, digest)))
        }
        Err(Errno::NODATA | Errno::NOTTY | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    #[test]
    fn a_file_without_verity_has_no_measurement() {
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(super::measure(file.as_fd()).unwrap(), None);
    }

    #[test]
    fn the_request_has_the_number_of_the_kernels_header() {
        let request = super::Measure(super::Measurement { algorithm: 0, size: 0, digest: [0; 64] });
        // _IOWR('f', 134, struct fsverity_digest): direction 3, size 4, 'f', 134.
        assert_eq!(rustix::ioctl::Ioctl::opcode(&request), 0xc004_6686);
    }
}
