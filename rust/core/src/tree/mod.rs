//! A tree of files as data: what an EROFS image, a live directory and a merge result have in common.

mod builder;
mod model;

pub use builder::{BuildError, TreeBuilder};
pub use model::{Children, Content, FileType, Node, NodeId, Stat, Timestamp, Tree, Xattr};
