//! Work in a thread that has a mount namespace of its own.
//!
//! Before Linux 6.15 nothing can be mounted on a detached mount, and before 6.13 an overlay takes its layers only by
//! path, from the mounts of its maker's namespace. Stacking mounts therefore needs a place that nobody else sees. The
//! namespace belongs to one thread: its process and other threads keep theirs, descriptors are shared with them, and
//! the kernel drops it with the thread, also after `kill -9`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::thread;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Calls `work` in a new thread whose mount namespace is a copy of the caller's, and waits for its end.
///
/// What is mounted there is seen by nobody else; what others unmount meanwhile goes there too, so that the copy keeps
/// nothing busy. The thread has a root and a working directory of its own, too. All that is attached in it is gone when
/// this returns; a tree cloned from it (`open_tree`) stays with its descriptor.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `EINVAL` where the root directory is no mount point; others of `unshare(2)` and of
/// starting a thread. `work` has not been called then.
///
/// # Panics
/// Where `work` does.
pub fn with_private_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("bootc-fast-mounts".to_owned());
        let worker = builder.spawn_scoped(scope, || run(work))?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn run<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let outside = File::open("/proc/thread-self/ns/mnt")?;
    // SAFETY: the flags leave the descriptor table shared, so descriptors mean the same in all threads; the thread is
    // ours alone, and nobody expects its root, working directory or umask to be the process's.
    unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let result = work();
    // Drops the namespace now, not some time after the thread's end. Without CAP_SYS_CHROOT it is then.
    let _ = move_into_link_name_space(outside.as_fd(), Some(LinkNameSpaceType::Mount));
    Ok(result)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn namespace() -> String {
        fs::read_link("/proc/thread-self/ns/mnt").unwrap().to_string_lossy().into_owned()
    }

    #[test]
    fn the_caller_keeps_its_namespace_and_directory() {
        let before = (namespace(), std::env::current_dir().unwrap());
        match with_private_mounts(|| {
            std::env::set_current_dir("/").unwrap();
            namespace()
        }) {
            Ok(inside) => assert_ne!(inside, before.0),
            // Not root: the thread has not come to its work.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
        assert_eq!((namespace(), std::env::current_dir().unwrap()), before);
    }
}
