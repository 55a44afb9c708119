//! The three-way merge of /etc: rules, plan, writing.
//!
//! [`plan::plan`] decides the result ([`result::MergeResult`]) from three trees by the rules of `rules/`, reading
//! files of the running /etc through [`content`] where only their bytes tell; [`ops`] and [`apply`] write it.

pub mod apply;
pub mod content;
pub mod ops;
pub mod plan;
pub mod policy;
pub mod result;

mod acl;
mod attributes;
mod dangling;
mod digests;
mod draft;
mod hidden;
mod meta;
mod prefetch;
mod rules;
mod triples;

pub use attributes::Attributes;
