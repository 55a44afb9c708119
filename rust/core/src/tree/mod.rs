//! A tree of files as data: what an EROFS image, a live directory and a merge result have in common.

mod beneath;
mod builder;
mod inode;
mod listing;
mod model;
mod scan;
mod scan_threads;
mod settled;

pub use beneath::{open_beneath, open_if_there};
pub use builder::{BuildError, TreeBuilder};
pub use model::{Children, Content, DiskState, FileType, Node, NodeId, Stat, Timestamp, Tree, Xattr};
pub use scan::{Flagged, Scan, ScanError, ScanReport, scan};
