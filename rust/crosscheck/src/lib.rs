//! Holds no code: see `tests/`, which compare the core with the `composefs` crate.
