//! The report: one page with everything in it, tables and plots, no script and nothing from elsewhere.

use std::fmt::Write;

use hearth_scaler::simulate::{Outcome, Sample};

use super::{COLUMNS, Comparison, cells};

/// Size of a plot, in pixels.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 220.0;

/// Room for the numbers at the left and below.
const LEFT: f64 = 48.0;
const BELOW: f64 = 24.0;

/// One for each policy: told apart by those who do not tell red from green (Okabe and Ito).
const COLORS: [&str; 5] = ["#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7"];

const STYLE: &str = "body{font:14px/1.4 system-ui,sans-serif;margin:2rem auto;max-width:1000px;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}h2{margin:2rem 0 .2rem}svg{display:block;margin:.5rem 0}\
svg text{font:11px system-ui,sans-serif;fill:#555}b{font-weight:600}";

/// The whole page.
pub(super) fn page(comparisons: &[Comparison], seed: u64) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>hearth simulate</title>\n<style>{STYLE}</style>\n\
         <h1>hearth simulate</h1>\n<p>Seed {seed}. The same traces, starts and calls for every policy; each decides who starts and \
         stops, and when. COLD and PREWARMED are calls that waited for such a start; P50 and P99 are waits of all calls.</p>\n"
    );
    for comparison in comparisons {
        page.push_str(&section(comparison));
    }
    page.push_str("</html>\n");
    page
}

fn section(comparison: &Comparison) -> String {
    let mut text = format!("<h2>{}</h2>\n<table><tr>", escape(&comparison.title));
    for title in COLUMNS {
        let _infallible = write!(text, "<th>{}</th>", title.to_lowercase());
    }
    text.push_str("</tr>\n");
    for (place, (who, outcome)) in comparison.rows.iter().enumerate() {
        text.push_str("<tr>");
        for (column, cell) in cells(who, outcome).iter().enumerate() {
            let color =
                if column == 0 { format!(" style=\"color:{}\"", color(place)) } else { String::new() };
            let _infallible = write!(text, "<td{color}>{}</td>", escape(cell));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table>\n");
    if comparison.rows.iter().any(|(_, outcome)| !outcome.samples.is_empty()) {
        text.push_str("<b>Instances, those that start and those in the pool with them</b>\n");
        text.push_str(&plot(&comparison.rows, |sample| f64::from(sample.instances + sample.pooled)));
        text.push_str("<b>Most calls that waited</b>\n");
        text.push_str(&plot(&comparison.rows, |sample| f64::from(sample.waiting)));
    }
    text.push_str("<b>Waits of the slowest tenth: how long, in ms, at which share of the calls</b>\n");
    text.push_str(&waits(&comparison.rows));
    text
}

fn color(place: usize) -> &'static str {
    COLORS.get(place % COLORS.len()).copied().unwrap_or("#000")
}

/// The course of a number over the time of the trace, a line for each policy.
fn plot(rows: &[(&'static str, Outcome)], number: impl Fn(&Sample) -> f64) -> String {
    let all = || rows.iter().flat_map(|(_, outcome)| &outcome.samples);
    let highest = all().map(&number).fold(1.0, f64::max);
    let last = all().map(|sample| sample.at.as_secs_f64()).fold(1.0, f64::max);
    let lines = rows.iter().map(|(_, outcome)| {
        outcome
            .samples
            .iter()
            .map(|sample| (sample.at.as_secs_f64() / last, number(sample) / highest))
            .collect()
    });
    let hours = last / 3600.0;
    let marks =
        (0..=4).map(|part| (f64::from(part) / 4.0, format!("{:.1} h", hours * f64::from(part) / 4.0)));
    draw(&lines.collect::<Vec<_>>(), &format!("{highest:.0}"), &marks.collect::<Vec<_>>())
}

/// The waits between the 90th and the last hundredth.
fn waits(rows: &[(&'static str, Outcome)]) -> String {
    let at = |part: f64| 90.0 + 10.0 * part;
    let highest = rows.iter().map(|(_, outcome)| outcome.wait(99.9)).fold(1.0, f64::max);
    let lines = rows.iter().map(|(_, outcome)| {
        let point = |step: u32| {
            let part = f64::from(step) / 100.0;
            (part, outcome.wait(at(part).min(99.9)) / highest)
        };
        (0..=100).map(point).collect()
    });
    let marks = [0.0, 0.5, 0.9, 1.0].map(|part| (part, format!("{:.0} %", at(part))));
    draw(&lines.collect::<Vec<_>>(), &format!("{highest:.0}"), &marks)
}

/// Lines whose points lie between 0 and 1 in both directions, with the highest number and marks below.
fn draw(lines: &[Vec<(f64, f64)>], highest: &str, marks: &[(f64, String)]) -> String {
    let (across, up) = (WIDTH - LEFT - 8.0, HEIGHT - BELOW - 8.0);
    let place = |(x, y): (f64, f64)| (LEFT + x * across, 8.0 + (1.0 - y) * up);
    let mut svg = format!(
        "<svg width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <path d=\"M{LEFT} 8V{bottom}H{right}\" fill=\"none\" stroke=\"#999\"/>\n\
         <text x=\"{at}\" y=\"14\" text-anchor=\"end\">{highest}</text><text x=\"{at}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n",
        bottom = 8.0 + up,
        right = LEFT + across,
        at = LEFT - 6.0,
    );
    for (x, text) in marks {
        let (x, y) = (LEFT + x * across, HEIGHT - 6.0);
        let _infallible = write!(svg, "<text x=\"{x:.0}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>");
    }
    // The first policy is drawn last, on top.
    for (number, line) in lines.iter().enumerate().rev() {
        let _infallible = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.3\" points=\"",
            color(number)
        );
        for (x, y) in line.iter().copied().map(place) {
            let _infallible = write!(svg, "{x:.1},{y:.1} ");
        }
        svg.push_str("\"/>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
