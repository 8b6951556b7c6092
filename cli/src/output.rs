//! The only place that writes to standard output and standard error.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use etcdbr_engine::Error;
use serde_json::{Value, json};

use crate::args::OutputFormat;

/// Prints a result: `text` for people, or `document` on one line.
pub(crate) fn result(format: OutputFormat, text: &str, document: &Value) {
    match format {
        OutputFormat::Text => print(text.trim_end()),
        OutputFormat::Json => print(document),
    }
}

/// A reader that has gone must not end the work whose result it does not want, as the macros of `std` would.
fn print(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints one log line.
pub(crate) fn log(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints an error with what to do next, and gives the exit code of its kind.
pub(crate) fn fail(format: OutputFormat, error: &Error) -> ExitCode {
    match format {
        OutputFormat::Text => {
            log(format_args!("error: {error}"));
            if let Some(hint) = error.next_step() {
                log(format_args!("hint:  {hint}"));
            }
        }
        OutputFormat::Json => log(json!({"error": error_document(error)})),
    }
    ExitCode::from(error.kind().exit_code())
}

/// An error as JSON.
pub(crate) fn error_document(error: &Error) -> Value {
    json!({
        "kind": error.kind().as_str(), "message": error.to_string(), "hint": error.next_step(),
        "exit_code": error.kind().exit_code(),
    })
}

/// Words as a shell takes them.
pub(crate) fn shell_line(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let quoted = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Bytes for people: three digits and a unit of 1,024.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 100.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::{human_bytes, shell_line};

    #[test]
    fn bytes_have_three_digits() {
        assert_eq!(human_bytes(999), "999 B");
        assert_eq!(human_bytes(1000), "0.98 KiB");
        assert_eq!(human_bytes(8 << 20), "8.00 MiB");
        assert_eq!(human_bytes(2_147_483_648), "2.00 GiB");
    }

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        let words = ["etcd", "--data-dir", "/my etcd", "it's", ""].map(str::to_owned);
        assert_eq!(shell_line(&words), r"etcd --data-dir '/my etcd' 'it'\''s' ''");
    }
}
