//! The core of bootc-fast: fs-verity digests, EROFS images, directory trees and the three-way /etc merge.
//!
//! Data walks through in one direction: [`erofs`] and [`tree`] produce a [`tree::Tree`], [`etc`] turns three of
//! them into a plan and a plan into a directory. No Python, no unsafe code; see `bootc-fast-sys` for the latter.
//! Everything that can take longer than 20 ms takes a [`cancel::Cancel`] and polls it.

pub mod cancel;
pub mod efi;
pub mod erofs;
pub mod etc;
pub mod limits;
pub mod repo;
pub mod text;
pub mod tree;
pub mod verity;
