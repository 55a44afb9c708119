//! Conflicts and strategies, special paths, what is ignored, and hard links (spec etc-merge.md).

mod merge_support;

use bootc_fast_core::etc::result::{MergeReport, Strategy, Warning};
use merge_support::{Done, merge, merge_with};

fn with(strategy: Strategy, p: &[&str], c: &[&str], n: &[&str]) -> Done {
    merge_with(strategy, &[], p, c, n)
}

fn saved(report: &MergeReport) -> Vec<Option<String>> {
    let name = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    report.conflicts.iter().map(|conflict| conflict.saved_as.as_ref().map(name)).collect()
}

#[test]
fn strategy_current_keeps_the_images_leaf_beside_the_admins_directory() {
    let done = with(Strategy::Current, &["e/d/x = 1"], &["e/d/x = 2", "e/d/s socket"], &["e/d -> t"]);
    let done = done.gives(&["e/d/x = 2", "e/d.bootc-new -> t"]).reports(&["c e/d"]);
    assert_eq!(saved(done.report()), [Some("e/d.bootc-new".to_owned())]);
    assert_eq!(done.report().fatal_conflicts().count(), 0);
}

#[test]
fn strategy_current_does_not_keep_an_images_directory() {
    let done = with(Strategy::Current, &["a = 1"], &["a = 2"], &["a/x = 1"]);
    let done = done.gives(&["a = 2"]).reports(&["c a", "i a"]);
    assert_eq!(saved(done.report()), [None]);
}

#[test]
fn strategy_new_keeps_the_admins_version_recursively() {
    let done = with(
        Strategy::New,
        &["d/x = 1", "d/y = 1", "a = 1"],
        &["d/ | mode=0700", "d/x = 2", "d/y = 1", "d/e/z = 3", "a = 2 | uid=3"],
        &["d -> t", "a/n = 1"],
    );
    let done = done
        .gives(&[
            "a/n = 1",
            "a.bootc-saved = 2 | uid=3",
            "d -> t",
            "d.bootc-saved/ | mode=0700",
            "d.bootc-saved/x = 2",
            "d.bootc-saved/y = 1",
            "d.bootc-saved/e/z = 3",
        ])
        .reports(&["c a", "c d"]);
    assert_eq!(saved(done.report()), [Some("a.bootc-saved".to_owned()), Some("d.bootc-saved".to_owned())]);
}

#[test]
fn saved_names_give_way_to_names_that_are_there() {
    let current = ["a = 2", "a.bootc-saved = admin", "a.bootc-saved.2 = admin"];
    let new = ["a/n = 1", "a.bootc-saved.1 = image"];
    with(Strategy::New, &["a = 1"], &current, &new).gives(&[
        "a/n = 1",
        "a.bootc-saved = admin",
        "a.bootc-saved.1 = image",
        "a.bootc-saved.2 = admin",
        "a.bootc-saved.3 = 2",
    ]);
}

#[test]
fn saved_names_of_long_names_stay_names() {
    let (one, two) = ("n".repeat(255), "n".repeat(254) + "m");
    let leaf = |name: &str| format!("{name} = mine");
    let inside = |name: &str| format!("{name}/x = 1");
    let current = [leaf(&one), leaf(&two)];
    let new = [inside(&one), inside(&two)];
    let done = with(
        Strategy::New,
        &[],
        &current.iter().map(String::as_str).collect::<Vec<_>>(),
        &new.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let cut = "n".repeat(243);
    let shorter = "n".repeat(241);
    assert_eq!(
        saved(done.report()),
        [Some(format!("{cut}.bootc-saved")), Some(format!("{shorter}.bootc-saved.1"))]
    );
}

#[test]
fn sockets_are_ignored_on_all_sides() {
    let done = merge(
        &["a = 1", "d/x = 1", "p socket"],
        &["a socket", "d socket", "added socket", "p = admin", "new/s socket", "new/f = 1"],
        &["a = 2", "d/x = 2", "p socket", "n socket"],
    );
    let done =
        done.gives(&["a = 2", "d/x = 2", "p = admin", "new/f = 1"]).reports(&["k p", "k new", "k new/f"]);
    let sockets: Vec<_> = done.report().warnings.iter().map(Warning::path).collect();
    assert_eq!(sockets, [&b"a"[..], b"added", b"d", b"new/s"]);
    assert!(done.report().warnings.iter().all(|warning| matches!(warning, Warning::SocketIgnored { .. })));
}

#[test]
fn what_a_mount_hides_is_left_as_in_n_and_reported() {
    let hidden = ["d/m", "machine-id", "mine"];
    let p = ["d/m/x = 1", "machine-id = ", "d/y = 1"];
    let n = ["d/m/x = 2", "machine-id = uninitialized", "d/y = 1"];
    let done = merge_with(Strategy::Fail, &hidden, &p, &["d/y = 1"], &n);
    let done = done.gives(&n).reports(&[]);
    let paths: Vec<_> = done.report().warnings.iter().map(Warning::path).collect();
    assert_eq!(paths, [&b"d/m"[..], b"machine-id", b"mine"]);
    // Not a deletion either where the image made the directory a file.
    merge_with(Strategy::Fail, &["d/m"], &["d/m/x = 1", "d/y = 1"], &["d/y = 1"], &["d = 1"])
        .gives(&["d = 1"])
        .reports(&[]);
}

#[test]
fn updated_is_never_in_r() {
    merge(&[], &[".updated = 1", "d/.updated = 1"], &[".updated = 2"]).gives(&["d/.updated = 1"]);
    merge(&[".updated = 1"], &[".updated = 1"], &[".updated = 1"]).gives(&[]).reports(&[]);
}

const ID: &str = "machine-id = 0123456789abcdef0123456789abcdef\n";

#[test]
fn a_real_machine_id_is_never_replaced_by_a_blank_one() {
    merge(&["machine-id = "], &[ID], &["machine-id = uninitialized\n"]).gives(&[ID]);
    merge(&[ID], &[ID], &["machine-id = "]).gives(&[ID]).reports(&["k machine-id"]);
    merge(&[ID], &[ID], &[]).gives(&[ID]).reports(&["k machine-id"]);
    let with_mode = format!("{ID} | mode=0444");
    merge(&[ID], &[ID], &["machine-id = uninitialized\n | mode=0444"]).gives(&[&with_mode]);
    merge(&[ID], &[&with_mode], &["machine-id = "]).gives(&[&with_mode]);
}

#[test]
fn a_machine_id_that_is_not_real_is_an_ordinary_file() {
    merge(&["machine-id = "], &["machine-id = "], &["machine-id = uninitialized"])
        .gives(&["machine-id = uninitialized"]);
    merge(&["machine-id = x"], &["machine-id = x"], &[]).gives(&[]);
    merge(&[ID], &[], &["machine-id = "]).gives(&[]);
    let other = "machine-id = ffffffffffffffffffffffffffffffff\n";
    merge(&[ID], &[ID], &[other]).gives(&[other]);
    merge(&["d/machine-id = 1"], &["d/machine-id = 1"], &["d/machine-id = "]).gives(&["d/machine-id = "]);
}

#[test]
fn labels_seals_and_the_overlays_attributes_are_no_edits() {
    let p = ["a = 1 | xattr:security.selinux=p xattr:security.ima=p"];
    let c = [
        "a = 1 | xattr:security.evm=c xattr:security.ima=c xattr:security.selinux=p xattr:trusted.overlay.x=c",
    ];
    let n = ["a = 2 | xattr:security.ima=n xattr:security.selinux=n"];
    merge(&p, &c, &n).gives(&n).reports(&[]);
    let root = ["/ | xattr:security.selinux=c", "d/ | xattr:security.ima=c xattr:security.selinux=c"];
    merge(&["/", "d/"], &root, &["/", "d/"]).gives(&["d/"]).reports(&[]);
}

#[test]
fn a_label_merges_like_any_attribute_and_stays_where_the_admin_gave_it() {
    let relabelled = |done: Done, count: u64| {
        let found = done.report().warnings.iter().find_map(|warning| match warning {
            Warning::LabelsKept { count, .. } => Some(*count),
            _ => None,
        });
        assert_eq!(found.unwrap_or_default(), count);
    };
    let p = ["a = 1 | xattr:security.selinux=p"];
    let n = ["a = 2 | xattr:security.selinux=n"];
    // Whatever else became of the file: only C's own relabelling keeps a label.
    for (c, r, count) in [
        ("a = 1 | xattr:security.selinux=c", "a = 2 | xattr:security.selinux=c", 1),
        ("a = 3 | xattr:security.selinux=p", "a = 3 | xattr:security.selinux=n", 0),
        ("a = 3 | xattr:security.selinux=c", "a = 3 | xattr:security.selinux=c", 1),
        ("a = 3 | xattr:security.selinux=n", "a = 3 | xattr:security.selinux=n", 0),
        ("a = 3", "a = 3 | xattr:security.selinux=n", 0),
        ("a = 1 | mode=0600 xattr:security.selinux=p", "a = 2 | mode=0600 xattr:security.selinux=n", 0),
        ("a = 1 | mode=0600 xattr:security.selinux=c", "a = 2 | mode=0600 xattr:security.selinux=c", 1),
    ] {
        relabelled(merge(&p, &[c], &n).gives(&[r]), count);
    }
    // P without labels, as an image built without SELinux: N's label is the file's.
    relabelled(
        merge(&["a = 1"], &["a = 3 | xattr:security.selinux=c"], &n)
            .gives(&["a = 3 | xattr:security.selinux=n"]),
        0,
    );
    // Relabelling alone is reported as no edit, and in one line however many there are.
    let label =
        |label: &str| ["", "d", "d/e"].map(|path| format!("{path}/ | xattr:security.selinux={label}"));
    let trees = ["p", "c", "n"].map(label);
    let [p, c, n] = trees.each_ref().map(|lines| lines.each_ref().map(String::as_str));
    relabelled(merge(&p, &c, &n).gives(&c).reports(&[]), 3);
}

#[test]
fn what_is_computed_from_content_goes_with_the_content() {
    let p = ["a = 1 | xattr:security.ima=p"];
    let n = ["a = 2 | xattr:security.ima=n xattr:user.x=n"];
    merge(&p, &["a = 1 | mode=0600 xattr:security.ima=c"], &n)
        .gives(&["a = 2 | mode=0600 xattr:security.ima=n xattr:user.x=n"]);
    merge(&p, &["a = 3 | xattr:security.ima=c"], &n).gives(&["a = 3 | xattr:security.ima=c xattr:user.x=n"]);
    merge(&p, &["a = 3"], &n).gives(&["a = 3 | xattr:user.x=n"]);
}

#[test]
fn mode_bits_merge_class_by_class() {
    // The admin opened the group, the image closed all but the owner's: others are closed, the group is the admin's.
    merge(&["a = 1"], &["a = 1 | mode=0664"], &["a = 2 | mode=0600"])
        .gives(&["a = 2 | mode=0660"])
        .reports(&["k a", "i a"]);
    merge(&["a = 1"], &["a = 1 | mode=0755"], &["a = 2 | mode=0640"])
        .gives(&["a = 2 | mode=0755"])
        .reports(&["k a", "i a"]);
    merge(&["a = 1"], &["a = 1 | mode=4755"], &["a = 2"]).gives(&["a = 2 | mode=4755"]).reports(&["k a"]);
    merge(&["d/ | mode=1777"], &["d/ | mode=0777"], &["d/ | mode=1755"]).gives(&["d/"]).reports(&["k d"]);
    // An owning group that the admin chose gets no bits that the image gives to its own group.
    merge(&["a = 1 | mode=0600"], &["a = 1 | mode=0600 gid=100"], &["a = 2 | mode=0640 gid=4"])
        .gives(&["a = 2 | mode=0600 gid=100"])
        .reports(&["k a", "i a"]);
}

#[test]
fn hard_links_of_the_admin_stay_hard_links_among_what_is_kept() {
    let c = ["a == 1", "d/b == 1", "e == 1", "f == 2", "g == 2"];
    merge(&["e = 1", "f = 2", "g = 2"], &c, &["e = 9", "f = 2", "g = 2"])
        .gives(&["a == 1", "d/b == 1", "e = 9", "f = 2", "g = 2"])
        .reports(&["k a", "k d", "k d/b"]);
    // One name left: no link any more.
    let done = merge(&[], &["a == 1", "b == 1"], &["b = 1"]).gives(&["a = 1", "b = 1"]);
    assert_eq!(done.result.tree.find(b"a").unwrap().stat().nlink, 1);
    let done = merge(&[], &["a == 1", "b == 1"], &[]).gives(&["a == 1", "b == 1"]);
    let node = done.result.tree.find(b"a").unwrap();
    assert_eq!(
        (node.stat().nlink, node.link_group()),
        (2, done.result.tree.find(b"b").unwrap().link_group())
    );
}

#[test]
fn hard_links_of_the_image_stay_and_end_where_attributes_differ() {
    let links = ["a == 1", "b == 1", "c == 1"];
    merge(&links, &links, &links).gives(&links).reports(&[]);
    merge(&["a = 1", "b = 1", "c = 1"], &["a = 1 | mode=0600", "b = 1", "c = 1"], &links).gives(&[
        "a = 1 | mode=0600",
        "b == 1",
        "c == 1",
    ]);
}

#[test]
fn links_that_led_somewhere_and_no_longer_do_are_reported() {
    let c = [
        "unit = 1",
        "dir/x = 1",
        "s.wants/unit -> ../unit",
        "ok -> dir/x",
        "up -> ../etc/dir/../unit",
        "abs -> /etc/unit",
        "never -> nothing",
        "slash -> dir/x/",
        "chain -> abs",
    ];
    let n = ["dir/x = 1", "self -> self", "null -> /dev/null", "away -> /usr/lib/any"];
    let done = merge(&["unit = 1", "dir/x = 1"], &c, &n);
    let found = done.report().dangling_links.iter();
    let found: Vec<_> = found.map(|change| (change.path.as_slice(), change.reason.as_str())).collect();
    assert_eq!(
        found,
        [
            (&b"abs"[..], "symlink to /etc/unit, which does not exist any more"),
            (b"chain", "symlink to abs, which does not exist any more"),
            (b"s.wants/unit", "enablement link to ../unit, which does not exist any more"),
            (b"up", "symlink to ../etc/dir/../unit, which does not exist any more"),
        ]
    );
    // A file became a directory, and the other way round.
    let done =
        merge(&["a = 1", "b/x = 1"], &["a = 1", "b/x = 1", "to -> b/", "dot -> b/."], &["a/x = 1", "b = 1"]);
    let found: Vec<_> = done.report().dangling_links.iter().map(|change| change.path.as_slice()).collect();
    assert_eq!(found, [&b"dot"[..], b"to"]);
}

#[test]
fn nothing_to_merge_gives_n_whatever_the_strategy() {
    for strategy in [Strategy::Fail, Strategy::Current, Strategy::New] {
        with(strategy, &[], &[], &[]).gives(&[]).reports(&[]);
    }
}

#[test]
fn the_deepest_tree_that_there_can_be_is_merged() {
    let deep = |leaf: &str| format!("{}{leaf}", "d/".repeat(bootc_fast_core::limits::MAX_DEPTH));
    let (old, own, image) = (deep("x = 1"), deep("x = 1 | mode=0600"), deep("x = 2"));
    let (added, dropped) = (deep("e/y = 1"), deep("z = 1"));
    merge(&[&old, &dropped], &[&own, &added, &dropped], &[&image]);
    merge(&[&old], &[&own], &[]);
    merge(&[&old], &[], &[&old, &added]);
}
