use super::*;

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&bits.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

const BASIC: [(u16, u16, u32); 6] = [
    (USER_OBJ, 6, NO_ID),
    (USER, 7, 1000),
    (GROUP_OBJ, 4, NO_ID),
    (GROUP, 2, 50),
    (MASK, 6, NO_ID),
    (OTHER, 1, NO_ID),
];

#[test]
fn an_acl_is_taken_apart_and_put_together_again() {
    let value = acl(&BASIC);
    let classes = Classes::of(0o661, 0, Some(&value)).unwrap();
    assert_eq!((classes.owner, classes.group, classes.mask, classes.other), (6, 4, Some(6), 1));
    assert_eq!(classes.mode(), 0o661);
    assert_eq!(classes.to_acl(), Some(value));
    assert_eq!(Classes::of(0o4751, 0, None).unwrap().mode(), 0o751);
    assert_eq!(Classes::of(0o4751, 0, None).unwrap().to_acl(), None);
}

#[test]
fn what_the_kernel_would_not_take_is_no_acl() {
    let twice = [(USER_OBJ, 6, NO_ID), (USER_OBJ, 6, NO_ID), (GROUP_OBJ, 4, NO_ID), (OTHER, 1, NO_ID)];
    let unmasked = [(USER_OBJ, 6, NO_ID), (USER, 6, 1), (GROUP_OBJ, 4, NO_ID), (OTHER, 1, NO_ID)];
    let unknown = [(USER_OBJ, 6, NO_ID), (0x40, 6, 1), (GROUP_OBJ, 4, NO_ID), (OTHER, 1, NO_ID)];
    let wide = [(USER_OBJ, 8, NO_ID), (GROUP_OBJ, 4, NO_ID), (OTHER, 1, NO_ID)];
    for entries in [&twice[..], &unmasked, &unknown, &wide, &BASIC[..3], &[]] {
        assert_eq!(Classes::of(0o600, 0, Some(&acl(entries))), None, "{entries:?}");
    }
    let mut long = acl(&BASIC);
    long.push(0);
    for value in [&b""[..], b"\x02\0\0", b"\x01\0\0\0", &long] {
        assert_eq!(Classes::of(0o600, 0, Some(value)), None);
    }
}

/// Every state of two classes and a named user, merged by taking each class from any side: no one gets more.
#[test]
fn nobody_gets_what_no_side_grants() {
    let bits = [0u16, 4, 6];
    let side = |owner: u16, group: u16, other: u16, named: Option<u16>, mask: u16, gid: u32| Classes {
        owner,
        group,
        other,
        mask: named.map(|_| mask),
        named: named.map(|bits| (Named { tag: USER, id: 7 }, bits)).into_iter().collect(),
        gid,
    };
    let mut states = Vec::new();
    for group in bits {
        for other in [0, 4] {
            for gid in [0, 9] {
                states.push(side(6, group, other, None, 0, gid));
                for named in bits {
                    states.extend([4, 6].map(|mask| side(6, group, other, Some(named), mask, gid)));
                }
            }
        }
    }
    let mut limited = 0;
    for one in &states {
        for two in &states {
            // Everything of `one` but this.
            let crossed = [
                Classes { named: two.named.clone(), ..one.clone() },
                Classes { named: two.named.clone(), mask: two.mask, ..one.clone() },
                Classes { other: two.other, ..one.clone() },
                Classes { group: two.group, ..one.clone() },
                Classes { gid: two.gid, ..one.clone() },
                Classes { mask: two.mask.or(one.mask), ..one.clone() },
            ];
            for mut merged in crossed {
                limited += u32::from(merged.limit(&[one, two]));
                for user in [None, Some(7)] {
                    for groups in [&[][..], &[0], &[9], &[0, 9]] {
                        let person = Person { user, groups };
                        let most = one.grants(&person) | two.grants(&person);
                        assert_eq!(merged.grants(&person) & !most, 0, "{one:?} {two:?} {merged:?}");
                    }
                }
                assert!(merged.named.is_empty() || merged.mask.is_some());
            }
        }
    }
    assert!(limited > 1000, "{limited}");
}
