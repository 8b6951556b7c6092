//! Faults of released etcds that a backup or a watch can meet, by version.
//!
//! A fault that etcdbr guards against is listed as well: the guard costs something (a watch that is proven more often, a
//! new full), and the other clients of that etcd have no guard at all.

/// One fault: the versions that have it, minor by minor, and what it does.
struct Fault {
    /// (minor version of 3.x, the first patch that has it, the first patch without it).
    minors: &'static [(u32, u32, u32)],
    what: &'static str,
}

/// No released patch is without it.
const NEVER: u32 = u32::MAX;

const FAULTS: [Fault; 9] = [
    Fault {
        minors: &[(4, 0, 34), (5, 0, 16)],
        what: "a watch that resumes at the compact revision misses that revision's deletes",
    },
    Fault { minors: &[(4, 0, 31), (5, 0, 13)], what: "a watch can lose events after a compaction" },
    Fault {
        minors: &[(4, 0, 24), (5, 0, 8)],
        what: "a watch can repeat events, and go back in time after its member caught up by a snapshot",
    },
    Fault { minors: &[(4, 0, 38), (5, 0, 22), (6, 0, 2)], what: "a watch on a future revision can give old events" },
    Fault { minors: &[(6, 0, 9)], what: "a watch that catches up can be given the events of the round before" },
    Fault {
        minors: &[(5, 0, 3)],
        what: "the consistent index is not always persisted: a member that restarts can apply writes twice",
    },
    Fault {
        minors: &[(5, 0, 23), (6, 0, 5)],
        what: "a member that takes a snapshot while it is defragmented can become different from the others",
    },
    Fault {
        minors: &[(4, 0, NEVER), (5, 0, NEVER), (6, 0, NEVER)],
        what: "a transaction that reads an explicit revision can be applied on some members only",
    },
    Fault {
        minors: &[(5, 0, 33), (6, 0, 14), (7, 0, 1)],
        what: "a user who may read one key may watch all that follow it",
    },
];

/// What is known against etcd `version` (as in `3.5.35`), one line each; `None` for a version that is not known at all.
pub fn known_faults(version: &str) -> Option<Vec<&'static str>> {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    let (Some(Ok(3)), Some(Ok(minor @ 4..=7)), Some(Ok(patch))) = (numbers.next(), numbers.next(), numbers.next())
    else {
        return None;
    };
    let has =
        |fault: &&Fault| fault.minors.iter().any(|(of, from, until)| *of == minor && (*from..*until).contains(&patch));
    Some(FAULTS.iter().filter(has).map(|fault| fault.what).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(version: &str) -> String {
        known_faults(version).unwrap().join("; ")
    }

    #[test]
    fn faults_begin_and_end_with_their_patch() {
        assert!(words("3.5.15").contains("resumes at the compact revision"));
        assert!(!words("3.5.16").contains("resumes at the compact revision"));
        assert!(words("3.4.33").contains("resumes at the compact revision"));
        assert!(!words("3.4.34").contains("resumes at the compact revision"));
        assert!(words("3.6.8").contains("round before") && !words("3.6.9").contains("round before"));
        assert!(
            words("3.5.2").contains("twice") && !words("3.5.3").contains("twice") && !words("3.4.2").contains("twice")
        );
        assert!(words("3.6.16").contains("explicit revision"));
        assert_eq!(known_faults("3.7.3"), Some(Vec::new()));
        assert!(words("3.7.0").contains("one key"));
    }

    #[test]
    fn versions_that_nobody_tried_are_not_known() {
        for version in ["3.3.27", "3.8.0", "4.0.0", "", "3", "3.5", "three"] {
            assert_eq!(known_faults(version), None, "{version}");
        }
        assert!(known_faults("3.6.0-rc.1").is_some());
    }
}
