//! The rules of the house that a machine can check, each as a test that names the file and the line.
//!
//! Lengths count what ships: `#[cfg(test)]` modules are free, integration tests are not. Where a rule must give way,
//! the exception goes into `EXCEPTIONS` with its reason; an exception that is no longer needed fails as well.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use etcdbr_tests::tools::workspace;
use source::{Source, files, sources};

/// Rule, the beginning of the complaint, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 60;

/// Names that say nothing about what is inside.
const DRAWERS: [&str; 10] =
    ["util", "utils", "common", "misc", "miscellaneous", "helper", "helpers", "types", "manager", "managers"];

/// The rooms of the engine by floor, as in `engine/src/lib.rs`.
const FLOORS: [(usize, &[&str]); 7] = [
    (0, &["error", "revision", "record", "chain", "clock", "monitor", "secret", "tls", "run"]),
    (1, &["format", "bbolt"]),
    (2, &["pipeline", "datadir", "store", "etcd"]),
    (3, &["archive", "foreign"]),
    (4, &["replay", "retention"]),
    (
        5,
        &[
            "backup", "capture", "restore", "compact", "retain", "copy", "verify", "browse", "export", "gc", "presign",
            "rollup", "status", "doctor",
        ],
    ),
    (6, &["daemon"]),
];
const VERB_FLOOR: usize = 5;

/// What a room must never learn, beyond what the floors forbid: paths by their beginning.
const NEVER: [(&str, &[&str]); 9] = [
    ("format", &["tokio", "futures", "std::fs", "std::net", "std::io::Write"]),
    ("bbolt", &["tokio", "futures", "std::net", "etcdbr_proto"]),
    ("pipeline", &["tokio", "futures", "std::net"]),
    ("datadir", &["tonic", "hyper", "std::net"]),
    ("archive", &["crate::etcd", "crate::datadir", "crate::bbolt"]),
    ("foreign", &["crate::etcd"]),
    ("replay", &["crate::etcd"]),
    ("retention", &["tokio", "futures", "std::fs", "crate::store", "crate::pipeline"]),
    ("daemon", &["crate::bbolt", "crate::pipeline", "crate::datadir"]),
];

/// What the command line must not look into; of `pipeline` and `datadir` it may name what an operator chooses.
const CLI_NEVER: [&str; 5] = ["bbolt", "format::frame", "pipeline::frame", "datadir::wal", "datadir::image"];

// --- the rules: each takes files and returns complaints ---------------------------------------------------------------

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().find(|(_, rooms)| rooms.contains(&room)).map(|(floor, _)| *floor)
}

/// (from, to, where) of every path from one room of the engine into another.
fn crossings(sources: &[Source]) -> Vec<(String, String, String)> {
    let mut crossings = Vec::new();
    for source in sources {
        let Some(from) = source.module("engine").and_then(|module| module.first().cloned()) else { continue };
        for mention in source.mentions("engine") {
            let Some(to) = mention.path.first().filter(|to| **to != from) else { continue };
            if to.starts_with(|c: char| c.is_lowercase()) {
                crossings.push((from.clone(), to.clone(), format!("{}:{}", source.path, mention.line)));
            }
        }
    }
    crossings
}

fn upward_imports(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (from, to, place) in crossings(sources) {
        match (floor(&from), floor(&to)) {
            (None, _) => complaints.push(format!("{place}: room `{from}` has no floor in tidy.rs")),
            (_, None) => complaints.push(format!("{place}: `crate::{to}` is no room with a floor in tidy.rs")),
            (Some(0), Some(0)) => {}
            (Some(own), Some(other)) if other >= own => complaints
                .push(format!("{place}: `{from}` (floor {own}) imports `{to}` (floor {other}): only downwards")),
            _ => {}
        }
    }
    complaints
}

fn verbs_that_import_verbs(sources: &[Source]) -> Vec<String> {
    let verb = |room: &String| floor(room) == Some(VERB_FLOOR);
    let pairs = crossings(sources).into_iter().filter(|(from, to, _)| verb(from) && verb(to));
    pairs.map(|(from, to, place)| format!("{place}: verb `{from}` imports verb `{to}`")).collect()
}

fn forbidden_knowledge(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let room = source.module("engine").and_then(|module| module.first().cloned()).unwrap_or_default();
        for name in NEVER.iter().filter(|(of, _)| *of == room).flat_map(|(_, never)| *never) {
            for line in source.lines_with(&format!("{name}::")) {
                complaints.push(format!("{}:{line}: `{room}` must never know `{name}`", source.path));
            }
        }
        for name in CLI_NEVER.iter().filter(|_| source.path.starts_with("cli/")) {
            for line in source.lines_with(&format!("etcdbr_engine::{name}")) {
                complaints.push(format!("{}:{line}: the command line must never know `{name}`", source.path));
            }
        }
    }
    complaints
}

/// Files of one crate that import each other, whatever their floor; a door (`mod.rs`, `lib.rs`) is no party.
fn mutual_imports(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for krate in ["engine", "cli", "tests"] {
        let mut imports: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
        let is_door = |source: &Source| ["/mod.rs", "/lib.rs", "/main.rs"].iter().any(|d| source.path.ends_with(d));
        for source in sources.iter().filter(|source| !is_door(source)) {
            let Some(module) = source.module(krate) else { continue };
            let mentions = source.mentions(krate).into_iter().map(|mention| mention.path);
            imports.entry(module).or_default().extend(mentions);
        }
        for (a, of_a) in &imports {
            for (b, of_b) in imports.range(a.clone()..).filter(|(b, _)| *b != a) {
                let names = |paths: &BTreeSet<Vec<String>>, module: &[String]| {
                    paths.iter().any(|path| path.starts_with(module))
                };
                if names(of_a, b) && names(of_b, a) {
                    complaints.push(format!("{krate}: `{}` and `{}` import each other", a.join("::"), b.join("::")));
                }
            }
        }
    }
    complaints
}

fn long_files(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let tests: usize = source.code.lines().zip(source.shipped.lines()).filter(|(all, kept)| all != kept).count();
        let lines = source.text.lines().count() - tests;
        if lines > MAX_FILE_LINES {
            complaints.push(format!("{}: {lines} lines without tests; {MAX_FILE_LINES} at most", source.path));
        }
    }
    complaints
}

fn long_functions(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        for (name, line, length) in source.functions() {
            if length > MAX_FUNCTION_LINES {
                let path = &source.path;
                complaints.push(format!("{path}:{line}: `{name}` has {length} lines; {MAX_FUNCTION_LINES} at most"));
            }
        }
    }
    complaints
}

fn drawers(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let stem = source.path.strip_suffix(".rs").unwrap_or(&source.path);
        let in_path = stem.split('/').filter(|part| DRAWERS.contains(part)).map(str::to_owned);
        let declared = source.code.split("mod ").skip(1);
        let in_mods = declared.filter_map(|rest| rest.split([';', ' ', '{']).next().map(str::to_owned));
        for name in in_path.chain(in_mods.filter(|name| DRAWERS.contains(&name.as_str()))) {
            complaints.push(format!("{}: `{name}` names a drawer; name what is inside", source.path));
        }
    }
    complaints
}

fn files_without_purpose(sources: &[Source]) -> Vec<String> {
    let silent = sources.iter().filter(|source| !source.text.starts_with("//! "));
    silent.map(|source| format!("{}:1: does not open with `//!` and what it is for", source.path)).collect()
}

fn ships(source: &Source) -> bool {
    ["engine/src/", "cli/src/", "proto/src/"].iter().any(|dir| source.path.starts_with(dir))
}

fn unwraps(sources: &[Source]) -> Vec<String> {
    complain_of(
        sources,
        ships,
        &[".unwrap()", ".unwrap_err()"],
        "is for tests; return an error, or `expect` with proof",
    )
}

fn prints(sources: &[Source]) -> Vec<String> {
    let ours = |source: &Source| source.path.starts_with("engine/src/") || source.path.starts_with("proto/src/");
    complain_of(sources, ours, &["print!(", "println!(", "dbg!("], "belongs to the command line")
}

fn getters(sources: &[Source]) -> Vec<String> {
    complain_of(sources, |_| true, &["fn get_"], "drop the `get_`")
}

fn glob_imports_of_the_crate(sources: &[Source]) -> Vec<String> {
    complain_of(sources, |_| true, &["use crate::*"], "say what is used")
}

fn complain_of(sources: &[Source], of: impl Fn(&Source) -> bool, needles: &[&str], why: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| of(source)) {
        let lines: BTreeSet<(usize, &str)> = needles
            .iter()
            .flat_map(|needle| source.lines_with(needle).into_iter().map(move |line| (line, *needle)))
            .collect();
        complaints.extend(lines.iter().map(|(line, needle)| format!("{}:{line}: `{needle}`: {why}", source.path)));
    }
    complaints
}

/// What betrays the machine that a file was written on.
fn private_places(path: &str, text: &str) -> Vec<String> {
    // In pieces, so that this file does not complain of itself.
    let words = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("proxy.", "golang"), concat!("py", "pi.org")];
    let found = words.iter().filter(|word| text.contains(**word));
    found.map(|word| format!("{path}: mentions `{word}`: a place of one machine or a registry's host")).collect()
}

/// Where `lib.rs` and the table of this file disagree about a room's floor.
fn floors_that_differ(lib: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut current = None;
    for line in lib.lines() {
        if let Some(rest) = line.strip_prefix("// Floor ") {
            current = rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok());
        } else if let Some(room) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'))
            && floor(room) != current
        {
            let here = floor(room);
            complaints.push(format!("engine/src/lib.rs: `{room}` stands on floor {current:?}, here on {here:?}"));
        }
    }
    complaints
}

// --- the workspace obeys them -----------------------------------------------------------------------------------------

/// Takes the exceptions of `rule` away, and complains of those that are not needed.
fn judge(rule: &str, complaints: Vec<String>) {
    let mut left = complaints;
    for (_, path, reason) in EXCEPTIONS.iter().filter(|(of, _, _)| *of == rule) {
        let before = left.len();
        left.retain(|complaint| !complaint.starts_with(path));
        assert!(left.len() < before, "the exception of {path} from {rule} is not needed: {reason}");
    }
    assert!(left.is_empty(), "{rule}:\n{}\n", left.join("\n"));
}

#[test]
fn rooms_import_downwards_only() {
    judge("rooms_import_downwards_only", upward_imports(&sources()));
}

#[test]
fn no_verb_imports_a_verb() {
    judge("no_verb_imports_a_verb", verbs_that_import_verbs(&sources()));
}

#[test]
fn no_room_learns_what_it_must_never_know() {
    judge("no_room_learns_what_it_must_never_know", forbidden_knowledge(&sources()));
}

#[test]
fn no_two_files_import_each_other() {
    judge("no_two_files_import_each_other", mutual_imports(&sources()));
}

#[test]
fn every_room_stands_on_its_floor() {
    let lib = fs::read_to_string(workspace().join("engine/src/lib.rs")).expect("the engine has a lib.rs");
    judge("every_room_stands_on_its_floor", floors_that_differ(&lib));
}

#[test]
fn no_file_is_long() {
    judge("no_file_is_long", long_files(&sources()));
}

#[test]
fn no_function_is_long() {
    judge("no_function_is_long", long_functions(&sources()));
}

#[test]
fn no_module_is_a_drawer() {
    judge("no_module_is_a_drawer", drawers(&sources()));
}

#[test]
fn every_file_says_what_it_is_for() {
    judge("every_file_says_what_it_is_for", files_without_purpose(&sources()));
}

#[test]
fn nothing_that_ships_unwraps() {
    judge("nothing_that_ships_unwraps", unwraps(&sources()));
}

#[test]
fn only_the_command_line_prints() {
    judge("only_the_command_line_prints", prints(&sources()));
}

#[test]
fn no_function_is_named_get() {
    judge("no_function_is_named_get", getters(&sources()));
}

#[test]
fn nobody_imports_the_whole_crate() {
    judge("nobody_imports_the_whole_crate", glob_imports_of_the_crate(&sources()));
}

#[test]
fn no_file_tells_of_the_machine_it_was_written_on() {
    let mut complaints = Vec::new();
    for path in files(workspace()) {
        if let Ok(text) = fs::read_to_string(workspace().join(&path)) {
            complaints.extend(private_places(&path, &text));
        }
    }
    judge("no_file_tells_of_the_machine_it_was_written_on", complaints);
}

// --- and each of them can fail ----------------------------------------------------------------------------------------

fn one(path: &str, text: &str) -> [Source; 1] {
    [Source::new(path, text)]
}

#[test]
fn an_import_upwards_is_seen() {
    for text in ["use crate::archive::Reader;", "fn a() { crate::backup::run(); }", "use crate::{etcd, error::Error};"]
    {
        assert_eq!(upward_imports(&one("engine/src/store/s3.rs", text)).len(), 1, "{text}");
    }
    assert_eq!(upward_imports(&one("engine/src/store/s3.rs", "use super::super::backup;")).len(), 1);
    assert_eq!(upward_imports(&one("engine/src/newroom/mod.rs", "use crate::error::Error;")).len(), 1);
    assert!(
        upward_imports(&one("engine/src/store/s3.rs", "use crate::{Error, format::Name};\nuse super::x;")).is_empty()
    );
}

#[test]
fn a_verb_in_a_verb_is_seen() {
    assert_eq!(verbs_that_import_verbs(&one("engine/src/backup/full.rs", "use crate::restore::Plan;")).len(), 1);
}

#[test]
fn forbidden_knowledge_is_seen() {
    assert_eq!(forbidden_knowledge(&one("engine/src/pipeline/seal.rs", "use tokio::sync::mpsc;")).len(), 1);
    assert_eq!(forbidden_knowledge(&one("engine/src/archive/mod.rs", "use crate::datadir::Wal;")).len(), 1);
    assert_eq!(forbidden_knowledge(&one("cli/src/main.rs", "use etcdbr_engine::bbolt::Page;")).len(), 1);
    assert!(forbidden_knowledge(&one("engine/src/store/mod.rs", "use tokio::fs;")).is_empty());
}

#[test]
fn a_mutual_import_is_seen() {
    let both = [
        Source::new("engine/src/store/a.rs", "use super::b::B;"),
        Source::new("engine/src/store/b.rs", "use crate::store::a::A;"),
    ];
    assert_eq!(mutual_imports(&both).len(), 1);
    assert!(mutual_imports(&both[..1]).is_empty());
}

#[test]
fn a_room_on_another_floor_is_seen() {
    assert_eq!(floors_that_differ("// Floor 1: x\npub mod format;\npub mod store;\n").len(), 1);
}

#[test]
fn length_is_seen_and_tests_are_free() {
    let body = "    x();\n".repeat(MAX_FUNCTION_LINES);
    let function = format!("fn a() {{\n{body}}}\n");
    assert_eq!(long_functions(&one("engine/src/a.rs", &function)).len(), 1);
    assert!(long_functions(&one("engine/src/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{function}}}\n"))).is_empty());
    let long = "//! x\n".repeat(MAX_FILE_LINES + 1);
    assert_eq!(long_files(&one("engine/src/a.rs", &long)).len(), 1);
    let with_tests = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "x();\n".repeat(MAX_FILE_LINES));
    assert!(long_files(&one("engine/src/a.rs", &with_tests)).is_empty());
}

#[test]
fn bad_names_are_seen() {
    assert_eq!(drawers(&one("engine/src/store/util.rs", "")).len(), 1);
    assert_eq!(drawers(&one("engine/src/helpers/mod.rs", "")).len(), 1);
    assert_eq!(drawers(&one("engine/src/a.rs", "mod common;")).len(), 1);
    assert_eq!(getters(&one("engine/src/a.rs", "pub fn get_name() {}")).len(), 1);
}

#[test]
fn careless_code_is_seen() {
    assert_eq!(files_without_purpose(&one("cli/src/a.rs", "use std::fs;\n")).len(), 1);
    assert_eq!(unwraps(&one("engine/src/a.rs", "fn a() { b().unwrap(); }")).len(), 1);
    assert!(
        unwraps(&one("engine/src/a.rs", "// .unwrap()\n#[cfg(test)]\nmod t { fn a() { b().unwrap(); } }")).is_empty()
    );
    assert_eq!(prints(&one("engine/src/a.rs", "fn a() { println!(); }")).len(), 1);
    assert!(prints(&one("cli/src/a.rs", "fn a() { println!(); }")).is_empty());
    assert_eq!(glob_imports_of_the_crate(&one("engine/src/a.rs", "use crate::*;")).len(), 1);
    assert_eq!(private_places("Makefile", concat!("cd /ho", "me/someone")).len(), 1);
}
