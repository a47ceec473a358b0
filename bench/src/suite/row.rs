//! One measured figure beside its base, and the files they are written to.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Which way a figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Costs and times.
    Lower,
    /// Rates.
    Higher,
}

/// A row of `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// `proxy`, `xdp`, `cache`, `control`, `vmm`.
    pub group: String,
    /// What was done.
    pub case: String,
    /// Which program did it.
    pub subject: String,
    /// The median of the rounds.
    pub value: f64,
    /// Unit of `value`.
    pub unit: String,
    /// Which way is good.
    pub better: Better,
    /// The program measured beside it in the same run.
    pub base: String,
    /// Its figure.
    pub base_value: f64,
    /// `value / base_value`.
    pub ratio: f64,
}

/// The figures of one case before they are compared.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the case.
    pub name: String,
    /// Unit of the figures.
    pub unit: &'static str,
    /// Which way is good.
    pub better: Better,
    /// Figures of the rounds by subject, in the order measured.
    pub rounds: Vec<(String, Vec<f64>)>,
}

impl Case {
    /// No figures yet.
    pub fn new(name: impl Into<String>, unit: &'static str, better: Better) -> Self {
        Self { name: name.into(), unit, better, rounds: Vec::new() }
    }

    /// Adds a figure of one round.
    pub fn push(&mut self, subject: &str, value: f64) {
        match self.rounds.iter_mut().find(|(name, _)| name == subject) {
            Some((_, values)) => values.push(value),
            None => self.rounds.push((subject.to_owned(), vec![value])),
        }
    }

    /// The median of one subject.
    pub fn median(&self, subject: &str) -> Option<f64> {
        self.rounds.iter().find(|(name, _)| name == subject).and_then(|(_, values)| median(values))
    }

    /// One row per subject, compared with the first of `bases` that was measured. Without any, each subject
    /// is its own base, so the figures are kept and claim nothing.
    pub fn rows(&self, group: &str, bases: &[&str]) -> Vec<Row> {
        let base = bases.iter().find_map(|name| self.median(name).filter(|v| *v > 0.0).map(|v| (*name, v)));
        let row = |(subject, values): &(String, Vec<f64>)| {
            let value = median(values)?;
            let (base, base_value) = base.unwrap_or((subject.as_str(), value));
            Some(Row {
                group: group.to_owned(),
                case: self.name.clone(),
                subject: subject.clone(),
                value: tidy(value),
                unit: self.unit.to_owned(),
                better: self.better,
                base: base.to_owned(),
                base_value: tidy(base_value),
                ratio: if base_value > 0.0 { tidy(value / base_value) } else { 1.0 },
            })
        };
        self.rounds.iter().filter_map(row).collect()
    }
}

/// Four significant digits: more would be noise.
fn tidy(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// The middle value, or the mean of the two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Cases in the order of their first row.
pub fn by_case(rows: &[Row]) -> Vec<(&str, Vec<&Row>)> {
    let mut order: Vec<(&str, Vec<&Row>)> = Vec::new();
    let mut place: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        let at = *place.entry(&row.case).or_insert_with(|| {
            order.push((&row.case, Vec::new()));
            order.len() - 1
        });
        order[at].1.push(row);
    }
    order
}

/// A table to read.
pub fn table(group: &str, rows: &[Row], notes: &[String]) -> String {
    let mut text = format!("group {group}: medians of interleaved rounds; ratio = value / base\n\n");
    let width = |f: fn(&Row) -> usize, least: usize| rows.iter().map(f).max().unwrap_or(0).max(least);
    let case_width = width(|r| r.case.len(), 4);
    let subject_width = width(|r| r.subject.len(), 7);
    // Writing into a string cannot fail.
    let _ok = writeln!(
        text,
        "{:case_width$}  {:subject_width$}  {:>12}  {:14}  {:>7}  base",
        "case", "subject", "value", "unit", "ratio"
    );
    for (case, rows) in by_case(rows) {
        for row in rows {
            let better = if row.better == Better::Lower { "less is better" } else { "more is better" };
            let _ok = writeln!(
                text,
                "{case:case_width$}  {:subject_width$}  {:>12}  {:14}  {:>7}  {} ({better})",
                row.subject,
                row.value,
                row.unit,
                ratio(row.ratio),
                row.base
            );
        }
    }
    if !notes.is_empty() {
        text.push_str("\nnotes\n");
        for note in notes {
            let _ok = writeln!(text, "- {note}");
        }
    }
    text
}

/// Two decimals, or three where two would show nothing.
pub fn ratio(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn rows_compare_with_the_first_base_measured() {
        let mut case = Case::new("c", "us", Better::Lower);
        for (subject, value) in [("a", 5.0), ("b", 10.0), ("a", 7.0), ("b", 10.0), ("a", 6.0)] {
            case.push(subject, value);
        }
        let rows = case.rows("g", &["absent", "b"]);
        assert_eq!((rows[0].value, rows[0].base.as_str(), rows[0].ratio), (6.0, "b", 0.6));
        assert_eq!(rows[1].ratio, 1.0);
        assert_eq!(case.rows("g", &["absent"])[0].base, "a", "no base, no claim");
    }

    #[test]
    fn four_digits() {
        assert_eq!((ratio(0.004_9), ratio(0.666)), ("0.005".to_owned(), "0.67".to_owned()));
        assert_eq!((tidy(123_456.0), tidy(0.012_345_6), tidy(0.0)), (123_500.0, 0.012_35, 0.0));
    }
}
