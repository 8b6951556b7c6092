//! What was measured, as a Markdown table: each line against its yardstick and its target.

use std::fmt::Write;

/// What a figure must not pass.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// At most so much.
    AtMost(f64),
    /// At least so much.
    AtLeast(f64),
    /// Printed for what it is.
    None,
}

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    what: String,
    ours: String,
    beside: String,
    figure: f64,
    unit: &'static str,
    target: Target,
}

impl Line {
    /// `ours` over `beside`, which the figure compares.
    pub(crate) fn ratio(what: impl Into<String>, ours: String, beside: String, figure: f64, target: Target) -> Self {
        Self { what: what.into(), ours, beside, figure, unit: "x", target }
    }

    /// A figure that stands for itself.
    pub(crate) fn figure(what: impl Into<String>, figure: f64, unit: &'static str, target: Target) -> Self {
        Self { what: what.into(), ours: String::new(), beside: String::new(), figure, unit, target }
    }

    fn verdict(&self) -> &'static str {
        match self.target {
            Target::None => "",
            Target::AtMost(limit) if self.figure <= limit => "ok",
            Target::AtLeast(limit) if self.figure >= limit => "ok",
            Target::AtMost(_) | Target::AtLeast(_) => "**missed**",
        }
    }

    fn cells(&self) -> [String; 6] {
        let target = match self.target {
            Target::AtMost(limit) => format!("<= {limit}"),
            Target::AtLeast(limit) => format!(">= {limit}"),
            Target::None => String::new(),
        };
        let digits = if self.figure >= 100.0 { 0 } else { 2 };
        let figure = format!("{:.digits$} {}", self.figure, self.unit);
        [self.what.clone(), self.ours.clone(), self.beside.clone(), figure, target, self.verdict().to_owned()]
    }
}

/// A table with a title.
pub(crate) fn table(title: &str, lines: &[Line]) -> String {
    let head = ["job", "ours", "beside it", "figure", "target", ""].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(lines.iter().map(Line::cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut out = format!("### {title}\n\n");
    for (at, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(out, "| {cell:<width$} ", width = width(column));
        }
        out += "|\n";
        if at == 0 {
            for column in 0..row.len() {
                let _ = write!(out, "|{}", "-".repeat(width(column) + 2));
            }
            out += "|\n";
        }
    }
    out
}

/// The middle one; the mean of the middle two where there is none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        even if even.is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}
