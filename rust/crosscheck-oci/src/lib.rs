//! Holds no code: see `examples/`, which the tests of `status` run. Apart from `crosscheck` because it pulls in a lot.
