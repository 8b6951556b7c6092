//! The workspace's Rust files, as the rules read them: comments and literals blanked out, test modules cut away,
//! paths into other modules resolved. A scanner, not a parser: it knows braces, literals and `crate::` paths.

use std::fs;
use std::path::Path;

use etcdbr_tests::tools::workspace;

/// One Rust file.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Relative to the workspace, with slashes.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// The same with comments and literals blanked out; every line where it was.
    pub(crate) code: String,
    /// `code` without `#[cfg(test)]` items; every line where it was.
    pub(crate) shipped: String,
}

/// A path that names a module from the crate's root, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mention {
    /// Its segments, such as `["format", "name"]`.
    pub(crate) path: Vec<String>,
    /// The line, from 1.
    pub(crate) line: usize,
}

impl Source {
    /// A file with this text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = blank_literals(text);
        let shipped = if is_test_file(path) { blank(&code) } else { blank_tests(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, shipped }
    }

    /// Its path within a crate's `src`, where it lies in the crate at `krate`.
    pub(crate) fn within(&self, krate: &str) -> Option<&str> {
        self.path.strip_prefix(krate)?.strip_prefix("/src/")
    }

    /// The module that it is, from the crate's root: `a/b.rs` and `a/b/mod.rs` are both `a`, `b`.
    pub(crate) fn module(&self, krate: &str) -> Option<Vec<String>> {
        let path = self.within(krate)?.strip_suffix(".rs")?;
        let path = path.strip_suffix("/mod").unwrap_or(path);
        let root = matches!(path, "lib" | "main");
        Some(if root { Vec::new() } else { path.split('/').map(str::to_owned).collect() })
    }

    /// Every path into the crate's own modules outside tests, whether by `crate::` or by `super::`.
    pub(crate) fn mentions(&self, krate: &str) -> Vec<Mention> {
        let module = self.module(krate).unwrap_or_default();
        let mut mentions = Vec::new();
        for (at, _) in self.shipped.match_indices("crate::") {
            if !preceded_by_word(&self.shipped, at) {
                self.follow(at + "crate::".len(), Vec::new(), &mut mentions);
            }
        }
        for (at, _) in self.shipped.match_indices("super::") {
            if preceded_by_word(&self.shipped, at) || self.shipped[..at].ends_with("super::") {
                continue;
            }
            let mut end = at;
            let mut base = module.clone();
            while self.shipped[end..].starts_with("super::") {
                end += "super::".len();
                base.pop();
            }
            self.follow(end, base, &mut mentions);
        }
        mentions
    }

    /// Reads the path at `at`, a group of paths included, onto `base`.
    fn follow(&self, at: usize, base: Vec<String>, mentions: &mut Vec<Mention>) {
        let rest = &self.shipped[at..];
        let line = self.shipped[..at].matches('\n').count() + 1;
        let Some(group) = rest.strip_prefix('{') else {
            mentions.push(Mention { path: [base, segments(rest)].concat(), line });
            return;
        };
        let mut depth = 0;
        let mut start = 0;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    let path = segments(group[start..i].trim_start());
                    if !path.is_empty() {
                        mentions.push(Mention { path: [base.clone(), path].concat(), line });
                    }
                    start = i + 1;
                    if c == '}' {
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    /// The functions outside tests: name, first line, number of lines.
    pub(crate) fn functions(&self) -> Vec<(String, usize, usize)> {
        let mut functions = Vec::new();
        for (at, _) in self.shipped.match_indices("fn ") {
            if preceded_by_word(&self.shipped, at) {
                continue;
            }
            let name: String = self.shipped[at + 3..].chars().take_while(|c| is_word(*c)).collect();
            let body = self.shipped[at..].find(['{', ';']).map(|i| at + i);
            let Some(open) = body.filter(|i| self.shipped[*i..].starts_with('{') && !name.is_empty()) else { continue };
            let end = matching_brace(&self.shipped, open);
            let first = self.shipped[..at].matches('\n').count() + 1;
            functions.push((name, first, self.shipped[at..end].matches('\n').count() + 1));
        }
        functions
    }

    /// The lines on which `needle` stands in code outside tests.
    pub(crate) fn lines_with(&self, needle: &str) -> Vec<usize> {
        let numbered = self.shipped.lines().enumerate();
        numbered.filter(|(_, line)| line.contains(needle)).map(|(i, _)| i + 1).collect()
    }
}

/// All Rust files of the workspace.
pub(crate) fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for krate in ["proto", "engine", "cli", "tests", "minio-test"] {
        for path in files(&workspace().join(krate)).iter().filter(|path| path.ends_with(".rs")) {
            sources.push(Source::new(path, &fs::read_to_string(workspace().join(path)).expect("a Rust file is text")));
        }
    }
    assert!(sources.len() > 20, "only {} Rust files were found", sources.len());
    sources
}

/// All files under `dir`, relative to the workspace, sorted; none of `target`, `dist` or hidden directories.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of the workspace").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | "dist") && (!name.starts_with('.') || name == ".ci") {
                found.extend(files(&path));
            }
        } else {
            let relative = path.strip_prefix(workspace()).expect("below the workspace");
            found.push(relative.to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

/// Whether a file of a crate's `src` is a test module of its own: `tests.rs`, or anything below `tests/`.
fn is_test_file(path: &str) -> bool {
    path.split_once("/src/").is_some_and(|(_, path)| path.split(['/', '.']).any(|part| part == "tests"))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn preceded_by_word(code: &str, at: usize) -> bool {
    code[..at].chars().next_back().is_some_and(|c| is_word(c) || c == '$')
}

fn segments(path: &str) -> Vec<String> {
    let end = path.find(|c: char| !is_word(c) && c != ':').unwrap_or(path.len());
    path[..end].split("::").filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
}

/// The position after the brace that closes the one at `open`.
fn matching_brace(code: &str, open: usize) -> usize {
    let mut depth = 0_i32;
    for (i, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return open + i + 1;
        }
    }
    code.len()
}

fn blank(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect()
}

/// Blanks out every item that stands under `#[cfg(test)]`.
fn blank_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut shipped = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        let after = at + MARK.len();
        let end = match rest[after..].find(['{', ';']).map(|i| after + i) {
            Some(open) if rest[open..].starts_with('{') => matching_brace(rest, open),
            Some(semicolon) => semicolon + 1,
            None => rest.len(),
        };
        shipped += &rest[..at];
        shipped += &blank(&rest[at..end]);
        rest = &rest[end..];
    }
    shipped + rest
}

/// Blanks out comments, strings and characters.
fn blank_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let literal = literal_length(rest, text[..at].chars().next_back());
        if literal > 0 {
            code += &blank(&rest[..literal]);
            at += literal;
        } else {
            let c = rest.chars().next().expect("not at the end");
            code.push(c);
            at += c.len_utf8();
        }
    }
    code
}

/// The length of the comment or literal that begins here; 0 where none does.
fn literal_length(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    if rest.starts_with('"') {
        return quoted_length(rest, '"');
    }
    if rest.starts_with('r') && !before.is_some_and(|c| is_word(c) && c != 'b' && c != 'c') {
        let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
        if rest[1 + hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = 2 + hashes;
            return rest[body..].find(&close).map_or(rest.len(), |end| body + end + close.len());
        }
    }
    if let Some(quoted) = rest.strip_prefix('\'') {
        let mut following = quoted.chars();
        let first = following.next();
        // A lifetime has no closing quote after its first character.
        if first == Some('\\') || (first.is_some() && following.next() == Some('\'')) {
            return quoted_length(rest, '\'');
        }
    }
    0
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return i + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_blank() {
        let text = "a(\"}\\\"{\"); // {\nb('{', '\\'', r#\"}\"#); /* } */ fn c<'a>(x: &'a str) {}";
        let code = Source::new("x.rs", text).code;
        assert_eq!(code.len(), text.len());
        assert_eq!(code.matches(['{', '}']).collect::<String>(), "{}");
        assert!(code.contains("fn c<'a>(x: &'a str)"));
    }

    #[test]
    fn paths_are_found_in_every_form() {
        let text = "use crate::{error::Error, format::{self, name}};\nfn a() { crate::store::x(); }\n\
                    use super::b;\nuse super::super::etcd;\n#[cfg(test)]\nmod tests { use crate::daemon; }";
        let source = Source::new("engine/src/backup/full.rs", text);
        let shown: Vec<String> = source.mentions("engine").iter().map(|m| m.path.join("::")).collect();
        assert_eq!(shown, ["error::Error", "format", "store::x", "backup::b", "etcd"]);
    }

    #[test]
    fn functions_are_measured() {
        let source = Source::new("x.rs", "fn one() {\n    let s = \"}\";\n}\ntrait T {\n    fn none(&self);\n}\n");
        assert_eq!(source.functions(), [("one".to_owned(), 1, 3)]);
    }
}
