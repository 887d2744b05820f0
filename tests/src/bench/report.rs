//! Figures beside their targets, as a page of documentation.

use std::fmt::Write;

/// A measured figure.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The figure, with its unit.
    pub figure: String,
    /// What it should be; empty for a figure that is only for comparison.
    pub target: String,
    /// Whether it is so.
    pub met: Option<bool>,
}

impl Row {
    /// A figure without a target.
    pub fn plain(what: impl Into<String>, figure: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            figure: figure.into(),
            target: String::new(),
            met: None,
        }
    }

    /// A figure that should be at most `limit`, both shown with `unit`.
    pub fn at_most(what: impl Into<String>, value: f64, limit: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            figure: format!("{} {unit}", short(value)),
            target: format!("≤ {} {unit}", short(limit)),
            met: Some(value <= limit),
        }
    }

    /// A figure that should be at least `limit`.
    pub fn at_least(what: impl Into<String>, value: f64, limit: f64, unit: &str) -> Self {
        Self {
            target: format!("≥ {} {unit}", short(limit)),
            met: Some(value >= limit),
            ..Self::at_most(what, value, limit, unit)
        }
    }
}

/// Two digits behind the point for small values, none for large ones.
#[must_use]
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The page.
#[must_use]
pub fn page(machine: &str, versions: &[String], sections: &[(String, Vec<Row>, String)]) -> String {
    let mut text =
        String::from("# Measured\n\nWritten by `make bench`; every comparison is of one run on one machine.\n\n");
    let _ = writeln!(text, "Machine: {machine}. {}.", versions.join("; "));
    for (title, rows, note) in sections {
        let _ = write!(
            text,
            "\n## {title}\n\n{note}\n\n| what | figure | target | reached |\n| --- | --- | --- | --- |\n"
        );
        for row in rows {
            let met = row.met.map_or("", |met| if met { "yes" } else { "**no**" });
            let _ = writeln!(text, "| {} | {} | {} | {met} |", row.what, row.figure, row.target);
        }
    }
    text
}
