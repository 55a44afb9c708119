//! The three-way merge of /etc: rules, plan, writing.
