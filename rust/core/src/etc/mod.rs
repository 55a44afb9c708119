//! The three-way merge of /etc: rules, plan, writing.

pub mod apply;
mod attributes;
pub mod ops;

pub use attributes::Attributes;

pub mod content;
pub mod result;
