//! `bootc_fast._core`: extract, detach, call, map errors. One file per exported area, and no logic.

mod boot;
mod call;
mod certificates;
mod etc_apply;
mod etc_plan;
mod etc_side;
mod files;
mod held;
mod image;
mod kexec;
mod mounts;
mod os_error;
mod pe;
mod repo;
mod tree;
mod verity;

use pyo3::prelude::*;

/// The native part of bootc-fast.
#[pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::boot::{is_fat, sync_filesystem};
    #[pymodule_export]
    use super::certificates::{Certificate, SignedData, SignerInfo};
    #[pymodule_export]
    use super::etc_apply::{EtcApplied, apply_etc, list_etc_operations};
    #[pymodule_export]
    use super::etc_plan::{EtcPlan, plan_etc, policy_pattern_matches};
    #[pymodule_export]
    use super::etc_side::Side;
    #[pymodule_export]
    use super::files::open_in_root;
    #[pymodule_export]
    use super::image::{Image, ImageWalk};
    #[pymodule_export]
    use super::kexec::{kexec_load, kexec_unload};
    #[pymodule_export]
    use super::mounts::{
        attach_loop, attach_mount, call_with_private_mounts, clone_mount, detach_mount, isolate_mount,
        mount_detached, remount_file_system,
    };
    #[pymodule_export]
    use super::pe::PeImage;
    #[pymodule_export]
    use super::repo::{RepositoryWriter, build_tree};
    #[pymodule_export]
    use super::tree::{Tree, TreeEntry};
    #[pymodule_export]
    use super::verity::{digest_fd, digest_many, measure_fd};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
