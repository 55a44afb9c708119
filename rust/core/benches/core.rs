//! The core by itself: digests, images, scans and plans. Sizes: `BENCH_FILES` (default 10,000), `BENCH_MIB` (64).
//!
//! What each measures is checked once before it is measured. Peers are in the Python benchmarks (`make bench`).
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot go on should stop, and has no callers"
)]

use std::fs::{self, File};
use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use bootc_fast_core::cancel::Never;
use bootc_fast_core::erofs::Image;
use bootc_fast_core::etc::plan::{PlanInput, SideInput, plan};
use bootc_fast_core::etc::policy::Policy;
use bootc_fast_core::etc::result::Strategy;
use bootc_fast_core::repo::{IngestOptions, Repository};
use bootc_fast_core::tree::{Tree, scan};
use bootc_fast_core::verity::{Algorithm, Params, digest_bytes, digest_many};
use bootc_fast_sys::lanes::Backend;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const FILE_BYTES: usize = 1024;
const FILES_PER_DIRECTORY: usize = 100;

fn size(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A directory of files with an image of it, removed at the end.
struct Etc {
    root: PathBuf,
    files: usize,
}

impl Etc {
    fn new(files: usize) -> Self {
        let root = std::env::temp_dir().join(format!("bootc-fast-bench-{}", std::process::id()));
        for number in 0..files {
            let directory = root.join(format!("etc/d{}", number / FILES_PER_DIRECTORY));
            if number % FILES_PER_DIRECTORY == 0 {
                fs::create_dir_all(&directory).unwrap();
            }
            let text = format!("{number:08}").repeat(FILE_BYTES / 8);
            fs::write(directory.join(format!("f{number}")), text).unwrap();
        }
        fs::create_dir(root.join("repository")).unwrap();
        Self { root, files }
    }

    fn open(&self, name: &str) -> OwnedFd {
        File::open(self.root.join(name)).unwrap().into()
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).unwrap();
    }
}

fn digests(criterion: &mut Criterion) {
    let large = vec![0x5au8; size("BENCH_MIB", 64) << 20];
    let small: Vec<Vec<u8>> = (0..10_000u32).map(|seed| seed.to_le_bytes().repeat(FILE_BYTES / 4)).collect();
    let small: Vec<&[u8]> = small.iter().map(Vec::as_slice).collect();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let params = Params::composefs(algorithm);
        let mut group = criterion.benchmark_group(format!("digest {algorithm:?}, {:?}", Backend::best()));
        group.throughput(Throughput::Bytes(large.len() as u64));
        group.bench_function("large, one thread", |bench| {
            bench.iter(|| digest_bytes(&params, black_box(&large)));
        });
        let many = digest_many(&params, &small, &Never).unwrap();
        assert_eq!(many.get(7).copied(), small.get(7).map(|data| digest_bytes(&params, data)));
        group.throughput(Throughput::Elements(small.len() as u64));
        group.bench_function("1 KiB each", |bench| {
            bench.iter(|| digest_many(&params, black_box(&small), &Never).unwrap());
        });
        group.finish();
    }
}

fn write_image(etc: &Etc) -> Image {
    let repository = etc.open("repository");
    let writer = Repository::open(repository.as_fd(), Algorithm::Sha512, false).unwrap();
    let tree = writer.ingest_directory(etc.open("etc").as_fd(), &IngestOptions::default(), &Never).unwrap();
    let digest = writer.write_image(&tree, &Never).unwrap();
    Image::open(&File::open(etc.root.join("repository/images").join(digest.to_string())).unwrap()).unwrap()
}

fn plan_of(image: &Tree, current: &Tree, dir: &OwnedFd) -> usize {
    let side = SideInput { tree: image, dir: None, objects: None };
    let input = PlanInput {
        pristine: side,
        current: SideInput { tree: current, dir: Some(dir), objects: None },
        new: side,
        hidden: &[],
        flagged: &[],
        policy: &Policy::new(Vec::new(), Strategy::Fail),
        is_last: false,
        pristine_image: None,
        new_image: None,
    };
    plan(&input, &Never).unwrap().report.kept.len()
}

fn trees(criterion: &mut Criterion) {
    let etc = Etc::new(size("BENCH_FILES", 10_000));
    let image = write_image(&etc);
    let dir = etc.open("etc");
    let pristine = image.tree(b"", &Never).unwrap();
    let current = scan(dir.as_fd(), &Never).unwrap().tree;
    assert_eq!(current.len(), pristine.len());
    assert_eq!(plan_of(&pristine, &current, &dir), 0);
    let mut group = criterion.benchmark_group("trees");
    group.throughput(Throughput::Elements(etc.files as u64)).sample_size(20);
    let id = |name: &str| BenchmarkId::new(name, etc.files);
    group.bench_function(id("walk an image"), |bench| bench.iter(|| image.tree(b"", &Never).unwrap()));
    group.bench_function(id("dump an image"), |bench| {
        bench.iter(|| image.dump(&mut std::io::sink(), &Never).unwrap());
    });
    let last = format!("d{}/f{}", (etc.files - 1) / FILES_PER_DIRECTORY, etc.files - 1);
    group.bench_function(id("find a path"), |bench| bench.iter(|| image.find(last.as_bytes()).unwrap()));
    group.bench_function(id("scan"), |bench| {
        bench.iter(|| scan(dir.as_fd(), &Never).unwrap());
    });
    group.bench_function(id("plan"), |bench| bench.iter(|| plan_of(&pristine, &current, &dir)));
    group.finish();
}

criterion_group!(benches, digests, trees);
criterion_main!(benches);
