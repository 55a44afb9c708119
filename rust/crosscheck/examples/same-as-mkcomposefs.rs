//! Compares the writer with C mkcomposefs: `same-as-mkcomposefs COUNT COMMAND…`, where COMMAND is mkcomposefs.
//!
//! Generated trees, SHA-256 (the only hash that mkcomposefs knows), are dumped by the composefs crate, made into
//! images by mkcomposefs, and compared byte for byte. Not a test, because no suite that the tests may rely on has
//! mkcomposefs.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::expect_used, reason = "a tool for people")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use bootc_fast_core::cancel::Never;
use bootc_fast_core::erofs::to_image;
use bootc_fast_core::verity::Algorithm;
use composefs::dumpfile::write_dumpfile;
use composefs::fsverity::Sha256HashValue;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let count: u32 = arguments.next().expect("a count").parse().expect("a count");
    let program = arguments.next().expect("a command");
    let command: Vec<String> = arguments.collect();
    let mut runner = TestRunner::deterministic();
    let (mut same, mut refused) = (0, 0);
    for number in 0..count {
        let mut specs = common::specs().new_tree(&mut runner).unwrap().current();
        // Numbers that the dump format cannot carry through mkcomposefs.
        specs.iter_mut().for_each(|spec| spec.mtime.secs = spec.mtime.secs.clamp(0, 1 << 40));
        let tree = common::build(Algorithm::Sha256, &specs);
        let mut dump = Vec::new();
        write_dumpfile(&mut dump, &common::to_theirs::<Sha256HashValue>(&tree)).unwrap();
        let mut child = Command::new(&program)
            .args(&command)
            .args(["--from-file", "--min-version=1", "-", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let sent = dump.clone();
        let writer = std::thread::spawn(move || input.write_all(&sent).and(Ok(())));
        let output = child.wait_with_output().unwrap();
        let _ = writer.join().unwrap();
        if !output.status.success() {
            refused += 1;
            continue;
        }
        let ours = to_image(&tree, &Never).unwrap();
        if ours == output.stdout {
            same += 1;
            continue;
        }
        let at = ours.iter().zip(&output.stdout).position(|(left, right)| left != right);
        println!(
            "tree {number}: {} and {} bytes, first difference at {at:?}",
            ours.len(),
            output.stdout.len()
        );
        std::fs::write(format!("differs-{number}.dump"), &dump).unwrap();
    }
    println!("{same} of {count} the same, {refused} refused by mkcomposefs");
}
