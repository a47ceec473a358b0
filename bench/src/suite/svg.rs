//! The picture of a group: for each case, one bar per subject, its length the ratio to the base.

use super::row::{Better, Row, by_case, ratio};
use std::fmt::Write as _;

const WIDTH: f64 = 1080.0;
const LEFT: f64 = 330.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 96.0;
const LEGEND_LINE: f64 = 22.0;
const BAR: f64 = 17.0;
const BAR_GAP: f64 = 4.0;
const CASE_GAP: f64 = 20.0;
const BOTTOM: f64 = 56.0;
/// Longer bars are cut and marked: one slow program must not squeeze the others.
const RATIO_MAX: f64 = 4.0;
/// Told apart also without colours (Okabe and Ito's palette); subjects take them in order of appearance.
const COLOURS: [&str; 8] =
    ["#0072b2", "#999999", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a500"];

/// Draws the rows of one group.
pub fn picture(group: &str, rows: &[Row], machine: &str) -> String {
    let cases = by_case(rows);
    let mut subjects: Vec<&str> = Vec::new();
    for row in rows {
        if !subjects.contains(&row.subject.as_str()) {
            subjects.push(&row.subject);
        }
    }
    let bars: usize = rows.len();
    let places = legend_places(&subjects);
    let top = TOP + LEGEND_LINE * places.last().map_or(0, |(_, line)| *line) as f64;
    let height = top + bars as f64 * (BAR + BAR_GAP) + cases.len() as f64 * CASE_GAP + BOTTOM;
    let longest = rows.iter().map(|r| r.ratio.min(RATIO_MAX)).fold(1.2, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / longest;
    let mut svg = String::new();
    head(&mut svg, group, machine, height);
    legend(&mut svg, &subjects, &places);
    axis(&mut svg, longest, scale, (top, height));
    // Below the bars and their labels, which have a light edge.
    let base_x = LEFT + scale;
    push(
        &mut svg,
        &format!(
            "<line x1=\"{base_x:.1}\" y1=\"{:.1}\" x2=\"{base_x:.1}\" y2=\"{:.1}\" stroke=\"#222\" \
             stroke-width=\"1.4\"/>",
            top - 10.0,
            height - BOTTOM + 6.0
        ),
    );
    let mut y = top;
    for (case, rows) in cases {
        y = draw_case(&mut svg, case, &rows, &subjects, scale, y);
    }
    svg.push_str("</svg>\n");
    svg
}

fn head(svg: &mut String, group: &str, machine: &str, height: f64) {
    push(
        svg,
        &format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"system-ui, 'DejaVu Sans', sans-serif\" \
             font-size=\"13\" fill=\"#222\">"
        ),
    );
    push(svg, &format!("<rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"#fdfdfc\"/>"));
    text(svg, 24.0, 32.0, "start", 19.0, "#111", &format!("{group}: ratio to the base measured beside it"));
    text(svg, WIDTH - 24.0, 32.0, "end", 11.0, "#666", machine);
}

/// Place of each subject in the legend: x and line.
fn legend_places(subjects: &[&str]) -> Vec<(f64, usize)> {
    let (mut x, mut line) = (24.0, 0);
    let place = |subject: &&str| {
        let width = 40.0 + 7.6 * subject.chars().count() as f64;
        if x + width > WIDTH - 24.0 {
            (x, line) = (24.0, line + 1);
        }
        let at = (x, line);
        x += width;
        at
    };
    subjects.iter().map(place).collect()
}

fn legend(svg: &mut String, subjects: &[&str], places: &[(f64, usize)]) {
    for (index, (subject, (x, line))) in subjects.iter().zip(places).enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let y = 50.0 + LEGEND_LINE * *line as f64;
        push(
            svg,
            &format!("<rect x=\"{x:.1}\" y=\"{y}\" width=\"13\" height=\"13\" rx=\"2\" fill=\"{colour}\"/>"),
        );
        text(svg, x + 19.0, y + 11.0, "start", 13.0, "#222", subject);
    }
}

fn axis(svg: &mut String, longest: f64, scale: f64, (top, height): (f64, f64)) {
    let bottom = height - BOTTOM + 6.0;
    let step = if longest > 2.5 { 1.0 } else { 0.5 };
    let mut tick = 0.0;
    while tick <= longest {
        let x = LEFT + tick * scale;
        push(
            svg,
            &format!(
                "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#ddd\"/>",
                top - 10.0
            ),
        );
        text(svg, x, bottom + 16.0, "middle", 12.0, "#555", &format!("{tick}"));
        tick += step;
    }
    text(svg, LEFT + scale, bottom + 34.0, "middle", 12.0, "#222", "base = 1");
}

fn draw_case(svg: &mut String, case: &str, rows: &[&Row], subjects: &[&str], scale: f64, top: f64) -> f64 {
    let mut y = top;
    text(svg, LEFT - 12.0, y + 13.0, "end", 13.0, "#111", case);
    let better = if rows.first().is_none_or(|r| r.better == Better::Lower) { "shorter" } else { "longer" };
    let unit = rows.first().map_or("", |r| r.unit.as_str());
    if rows.len() > 1 {
        text(svg, LEFT - 12.0, y + 29.0, "end", 11.0, "#777", &format!("{unit}, {better} is better"));
    }
    for row in rows {
        let index = subjects.iter().position(|s| *s == row.subject).unwrap_or(0);
        let colour = COLOURS[index % COLOURS.len()];
        let shown = row.ratio.min(RATIO_MAX);
        let width = (shown * scale).max(1.0);
        push(
            svg,
            &format!(
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\" \
                 fill=\"{colour}\"><title>{} {}</title></rect>",
                escape(&row.subject),
                escape(case)
            ),
        );
        let cut = if row.ratio > RATIO_MAX { " ≫" } else { "" };
        let label = format!("{} {} · {}×{cut}", number(row.value), row.unit, ratio(row.ratio));
        text(svg, LEFT + width + 7.0, y + 13.0, "start", 12.0, "#333", &label);
        y += BAR + BAR_GAP;
    }
    y + CASE_GAP
}

/// Thousands apart, no more digits than the row has.
fn number(value: f64) -> String {
    if value.abs() < 10_000.0 {
        return format!("{value}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, size: f64, colour: &str, content: &str) {
    push(
        svg,
        &format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{colour}\" \
             stroke=\"#fdfdfc\" stroke-width=\"3\" paint-order=\"stroke\">{}</text>",
            escape(content)
        ),
    );
}

fn escape(content: &str) -> String {
    content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn push(svg: &mut String, line: &str) {
    // Writing into a string cannot fail.
    let _ok = writeln!(svg, "{line}");
}

#[cfg(test)]
mod tests {
    use super::super::row::Case;
    use super::*;

    #[test]
    fn every_row_has_its_bar_and_names_are_escaped() {
        let mut case = Case::new("hit <1 KiB>", "us", Better::Lower);
        case.push("sluice", 6.0);
        case.push("nginx", 12.0);
        case.push("slow", 120.0);
        let svg = picture("proxy", &case.rows("proxy", &["nginx"]), "a & b");
        assert_eq!(svg.matches("<title>").count(), 3);
        assert!(svg.contains("hit &lt;1 KiB&gt;") && svg.contains("a &amp; b") && !svg.contains("<1 KiB>"));
        assert!(svg.contains("10.00× ≫"), "a cut bar says so");
        assert_eq!(number(1_234_567.0), "1\u{202f}234\u{202f}567");
    }
}
