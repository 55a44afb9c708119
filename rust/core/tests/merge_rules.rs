//! Every row of the rules table (spec etc-merge.md, "The rules, per path"), named after it: P to C, P to N.

mod merge_support;

use merge_support::merge;

#[test]
fn unchanged_and_anything_gives_n() {
    merge(&["a = 1", "d/b = 1"], &["a = 1", "d/b = 1"], &["a = 2", "d/b = 2", "e = 3"])
        .gives(&["a = 2", "d/b = 2", "e = 3"])
        .reports(&[]);
    merge(&["a = 1", "d/b = 1", "d/c = 1"], &["a = 1", "d/b = 1", "d/c = 1"], &["d/c = 1"])
        .gives(&["d/c = 1"])
        .reports(&[]);
    merge(&["a = 1", "d/b = 1"], &["a = 1", "d/b = 1"], &["a/x = 1", "d -> a"])
        .gives(&["a/x = 1", "d -> a"])
        .reports(&[]);
    merge(&["a = 1"], &["a = 1"], &["a = 1 | mode=0600 uid=4 xattr:user.x=1"])
        .gives(&["a = 1 | mode=0600 uid=4 xattr:user.x=1"])
        .reports(&[]);
}

#[test]
fn changed_or_added_and_unchanged_or_still_absent_gives_c() {
    merge(&["a = 1"], &["a = 2", "b = 3"], &["a = 1"]).gives(&["a = 2", "b = 3"]).reports(&["k a", "k b"]);
    merge(&[], &["l -> t", "d/f = 1", "e/", "p fifo", "v char 259"], &[])
        .gives(&["l -> t", "d/f = 1", "e/", "p fifo", "v char 259"])
        .reports(&["k l", "k d", "k d/f", "k e", "k p", "k v"]);
    merge(&["a = 1"], &["a = 1 | mode=4755 gid=5 xattr:user.a=1"], &["a = 1"])
        .gives(&["a = 1 | mode=4755 gid=5 xattr:user.a=1"])
        .reports(&["k a"]);
    merge(&["a = 1 | xattr:user.a=1"], &["a = 1"], &["a = 1 | xattr:user.a=1"])
        .gives(&["a = 1"])
        .reports(&["k a"]);
}

#[test]
fn changed_leaf_that_n_dropped_gives_c() {
    merge(&["a = 1", "b = 1"], &["a = 2", "b = 1 | mode=0600"], &[])
        .gives(&["a = 2", "b = 1 | mode=0600"])
        .reports(&["k a", "k b"]);
}

#[test]
fn changed_or_added_and_the_same_change_gives_it_unreported() {
    merge(&["a = 1"], &["a = 2", "b = 3", "d/x = 1"], &["a = 2", "b = 3", "d/x = 1"])
        .gives(&["a = 2", "b = 3", "d/x = 1"])
        .reports(&[]);
    merge(&["a = 1"], &["a -> b"], &["a -> b"]).gives(&["a -> b"]).reports(&[]);
    merge(&["a = 1", "d/x = 1"], &[], &[]).gives(&[]).reports(&[]);
}

#[test]
fn changed_and_changed_otherwise_merges_each_attribute_on_its_own() {
    merge(&["a = 1"], &["a = 1 | mode=0600"], &["a = 2"]).gives(&["a = 2 | mode=0600"]).reports(&["k a"]);
    merge(&["a = 1"], &["a = 2"], &["a = 1 | mode=0600 uid=7"])
        .gives(&["a = 2 | mode=0600 uid=7"])
        .reports(&["k a"]);
    merge(&["a = 1"], &["a = 2"], &["a = 3"]).gives(&["a = 2"]).reports(&["k a", "i a"]);
    merge(&["a = 1"], &["a = 2 | mode=0600"], &["a = 2 | uid=3"])
        .gives(&["a = 2 | mode=0600 uid=3"])
        .reports(&["k a"]);
    merge(&["a = 1 | uid=1 gid=1"], &["a = 1 | uid=2 gid=1"], &["a = 1 | uid=3 gid=3"])
        .gives(&["a = 1 | uid=2 gid=3"])
        .reports(&["k a", "i a"]);
    merge(
        &["a = 1 | xattr:user.c=1 xattr:user.n=1 xattr:user.gone=1 xattr:user.both=1"],
        &["a = 1 | xattr:user.c=2 xattr:user.n=1 xattr:user.both=2 xattr:user.added=2"],
        &["a = 1 | xattr:user.c=1 xattr:user.n=3 xattr:user.gone=1 xattr:user.both=3"],
    )
    .gives(&["a = 1 | xattr:user.added=2 xattr:user.both=2 xattr:user.c=2 xattr:user.n=3"])
    .reports(&["k a", "i a"]);
    merge(&["a -> 1"], &["a -> 2"], &["a -> 3"]).gives(&["a -> 2"]).reports(&["k a", "i a"]);
    merge(&["a char 1"], &["a char 1 | uid=5"], &["a char 2"]).gives(&["a char 2 | uid=5"]).reports(&["k a"]);
    merge(&["a char 1"], &["a char 3"], &["a char 2"]).gives(&["a char 3"]).reports(&["k a", "i a"]);
    merge(&["a fifo"], &["a fifo | mode=0600"], &["a fifo | uid=1"])
        .gives(&["a fifo | mode=0600 uid=1"])
        .reports(&["k a"]);
}

#[test]
fn leaf_added_or_of_another_type_and_leaf_added_or_changed_otherwise_gives_c() {
    merge(&[], &["a = 1"], &["a = 2"]).gives(&["a = 1"]).reports(&["k a", "i a"]);
    merge(&[], &["a = 1 | mode=0600"], &["a = 1 | uid=3"])
        .gives(&["a = 1 | mode=0600"])
        .reports(&["k a", "i a"]);
    merge(&[], &["a -> t"], &["a = 2"]).gives(&["a -> t"]).reports(&["k a", "i a"]);
    merge(&["a = 1"], &["a -> t"], &["a = 2"]).gives(&["a -> t"]).reports(&["k a", "i a"]);
    merge(&["a = 1"], &["a = 2"], &["a -> t"]).gives(&["a = 2"]).reports(&["k a", "i a"]);
    merge(&["a = 1"], &["a -> t"], &["a -> u"]).gives(&["a -> t"]).reports(&["k a", "i a"]);
    merge(&["d/x = 1"], &["d -> t"], &["d = 2"]).gives(&["d -> t"]).reports(&["k d", "i d"]);
}

#[test]
fn deleted_and_unchanged_gives_nothing() {
    merge(&["a = 1", "b = 1"], &["b = 1"], &["a = 1", "b = 1"]).gives(&["b = 1"]).reports(&["d a"]);
    merge(&["d/x = 1", "d/e/y = 1"], &[], &["d/x = 1", "d/e/y = 1"])
        .gives(&[])
        .reports(&["d d", "d d/x", "d d/e", "d d/e/y"]);
}

#[test]
fn deleted_leaf_and_changed_gives_nothing() {
    merge(&["a = 1"], &[], &["a = 2"]).gives(&[]).reports(&["d a", "i a"]);
    merge(&["a = 1"], &[], &["a = 1 | mode=0600"]).gives(&[]).reports(&["d a", "i a"]);
    merge(&["a = 1"], &[], &["a -> t"]).gives(&[]).reports(&["d a", "i a"]);
    merge(&["a = 1"], &[], &["a/x = 2"]).gives(&[]).reports(&["d a", "i a"]);
}

#[test]
fn directory_deleted_and_n_changed_or_added_things_under_it_keeps_only_what_n_added() {
    merge(&["d/x = 1", "d/y = 1", "d/e/z = 1"], &[], &["d/x = 2", "d/y = 1", "d/new = 1", "d/e/z = 1"])
        .gives(&["d/new = 1"])
        .reports(&["d d", "d d/x", "d d/y", "d d/e", "d d/e/z", "i d/x", "a d/new"]);
    merge(&["d/e/z = 1"], &[], &["d/ | mode=0700", "d/e/z = 1", "d/e/f/g = 1"])
        .gives(&["d/ | mode=0700", "d/e/f/g = 1"])
        .reports(&["d d", "d d/e", "d d/e/z", "a d/e/f"]);
    merge(&["d/x = 1"], &[], &["d/ | mode=0700", "d/x = 2"])
        .gives(&[])
        .reports(&["d d", "d d/x", "i d", "i d/x"]);
    merge(&["d/x = 1"], &[], &["d = 1"]).gives(&["d = 1"]).reports(&["d d", "a d"]);
}

#[test]
fn directory_metadata_changed_and_directory_merges_attributes_and_children() {
    merge(
        &["d/x = 1", "d/y = 1"],
        &["d/ | mode=0700", "d/x = 1", "d/y = 2"],
        &["d/ | uid=5", "d/x = 3", "d/y = 1"],
    )
    .gives(&["d/ | mode=0700 uid=5", "d/x = 3", "d/y = 2"])
    .reports(&["k d", "k d/y"]);
    merge(&["d/"], &["d/ | mode=0700"], &["d/ | mode=0750"]).gives(&["d/ | mode=0700"]).reports(&["k d"]);
    merge(&["/ | mode=0755"], &["/ | mode=0700"], &["/ | uid=1"])
        .gives(&["/ | mode=0700 uid=1"])
        .reports(&["k "]);
}

#[test]
fn directories_added_on_both_sides_are_merged() {
    merge(&[], &["d/ | mode=0700", "d/x = 1"], &["d/ | uid=2", "d/y = 1"])
        .gives(&["d/ | mode=0700", "d/x = 1", "d/y = 1"])
        .reports(&["k d", "i d", "k d/x"]);
    merge(&["d = 1"], &["d/x = 1", "d/z = 1"], &["d/y = 1", "d/z = 1"])
        .gives(&["d/x = 1", "d/y = 1", "d/z = 1"])
        .reports(&["k d/x"]);
}

#[test]
fn directory_with_changes_inside_and_absent_comes_back_with_only_the_changes() {
    merge(
        &["d/ | mode=0750", "d/x = 1", "d/y = 1", "d/e/z = 1", "d/f/w = 1"],
        &["d/ | mode=0750", "d/x = 2", "d/y = 1", "d/e/z = 1", "d/e/new = 1", "d/f/w = 1"],
        &[],
    )
    .gives(&["d/ | mode=0750", "d/x = 2", "d/e/new = 1"])
    .reports(&["k d", "k d/x", "k d/e", "k d/e/new"]);
    merge(&["d/x = 1"], &["d/ | mode=0700", "d/x = 1"], &[]).gives(&["d/ | mode=0700"]).reports(&["k d"]);
    merge(&["d/x = 1", "d/y = 1"], &["d/x = 1"], &[]).gives(&[]).reports(&[]);
}

#[test]
fn directory_unchanged_to_the_last_leaf_and_file_or_symlink_gives_n() {
    merge(&["d/e/x = 1"], &["d/e/x = 1"], &["d = 1"]).gives(&["d = 1"]).reports(&[]);
    merge(&["d/e/x = 1"], &["d/e/x = 1"], &["d -> e"]).gives(&["d -> e"]).reports(&[]);
}

#[test]
fn changed_its_type_and_unchanged_gives_c_with_all_that_is_in_it() {
    merge(&["a = 1"], &["a/x = 1", "a/d/y = 2"], &["a = 1"])
        .gives(&["a/x = 1", "a/d/y = 2"])
        .reports(&["k a", "k a/x", "k a/d", "k a/d/y"]);
    merge(&["d/x = 1"], &["d -> t"], &["d/x = 1"]).gives(&["d -> t"]).reports(&["k d"]);
    merge(&["d/x = 1"], &["d = 1"], &["d/x = 1"]).gives(&["d = 1"]).reports(&["k d"]);
    merge(&["a = 1"], &["a -> t"], &["a = 1"]).gives(&["a -> t"]).reports(&["k a"]);
}

#[test]
fn changed_its_type_and_changed_without_changing_its_type_gives_c() {
    merge(&["d/x = 1"], &["d -> t"], &["d/x = 2"]).gives(&["d -> t"]).reports(&["k d", "i d"]);
    merge(&["a = 1"], &["a/x = 1"], &["a = 2"]).gives(&["a/x = 1"]).reports(&["k a", "k a/x", "i a"]);
}

#[test]
fn a_new_directory_replacing_a_file_and_absent_gives_c_recursively() {
    merge(&["a = 1"], &["a/d/x = 1", "a/e/"], &[])
        .gives(&["a/d/x = 1", "a/e/"])
        .reports(&["k a", "k a/d", "k a/d/x", "k a/e"]);
    merge(&["d/x = 1"], &["d -> t"], &[]).gives(&["d -> t"]).reports(&["k d"]);
}

#[test]
fn directory_from_which_things_were_only_deleted_and_file_or_symlink_gives_n() {
    merge(&["d/x = 1", "d/e/y = 1"], &["d/e/"], &["d -> t"]).gives(&["d -> t"]).reports(&["d d"]);
    merge(&["d/x = 1"], &["d/"], &["d = 2"]).gives(&["d = 2"]).reports(&["d d"]);
}

#[test]
fn leaf_changed_or_added_and_now_a_directory_is_a_conflict() {
    let done = merge(&["a = 1"], &["a = 2"], &["a/x = 1"]).gives(&["a = 2"]).reports(&["c a", "i a"]);
    let conflict = &done.report().conflicts[0];
    assert_eq!((conflict.current.as_str(), conflict.new.as_str()), ("file, changed", "now a directory"));
    assert!(done.report().fatal_conflicts().next().is_some());
    merge(&[], &["a -> t"], &["a/x = 1"]).reports(&["c a", "i a"]);
    merge(&["a = 1"], &["a = 1 | mode=0600"], &["a/"]).reports(&["c a", "i a"]);
}

#[test]
fn directory_with_changes_inside_and_now_a_file_or_a_symlink_is_a_conflict() {
    let done = merge(&["d/x = 1", "d/y = 1"], &["d/x = 2", "d/y = 1"], &["d = 3"]);
    // A conflict that nobody settled keeps both sides whole, for whoever looks at the plan.
    let done = done.gives(&["d/x = 2", "d/y = 1", "d.bootc-new = 3"]).reports(&["c d"]);
    assert_eq!(done.report().conflicts[0].current, "directory, with changes inside");
    assert_eq!(done.report().conflicts[0].new, "now a file");
    merge(&["d/x = 1"], &["d/x = 1", "d/y = 1"], &["d -> t"]).reports(&["c d"]);
    merge(&["d/x = 1"], &["d/ | mode=0700", "d/x = 1"], &["d -> t"]).reports(&["c d"]);
    merge(&[], &["d/x = 1"], &["d = 1"]).reports(&["c d"]);
    merge(&[], &["d/"], &["d = 1"]).reports(&["c d"]);
}
