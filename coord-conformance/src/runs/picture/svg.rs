//! Rows of marks, drawn as SVG.

use std::fmt;

use crate::history::Stamp;

/// How it looks.
pub(super) const STYLE: &str = "<style>
body { font: 14px system-ui, sans-serif; margin: 16px; color: #222; }
h1 { font-size: 20px; } h2 { font-size: 15px; margin: 24px 0 6px; }
pre { background: #f5f5f5; padding: 8px; overflow-x: auto; font-size: 12px; }
.drawing { overflow-x: auto; border: 1px solid #ddd; }
svg { display: block; font: 10px system-ui, sans-serif; }
svg .name { font-size: 11px; } svg .title { font-weight: bold; font-size: 12px; }
svg .line { stroke: #e4e4e4; } svg .band { fill: #fafafa; }
.wait { fill: #c8c8c8; } .held { fill: #4c8fd6; } .after { fill: #b9d3ee; } .lost { fill: #d62728; }
.shown { stroke: #d62728; stroke-width: 2.5; }
.fault { fill: #f0a63c; } .died { fill: #222; } .healed { fill: #2ca02c; }
.ok { fill: #2ca02c; } .failed { fill: #d62728; } .unknown { fill: #999; } .moment.shown { fill: #d62728; }
.key { display: inline-block; width: 12px; height: 12px; margin: 0 4px 0 14px; vertical-align: -2px; }
</style>
";

/// What its colours mean.
pub(super) const LEGEND: &str = "<p>
<svg class=\"key\"><rect class=\"wait\" width=\"12\" height=\"12\"/></svg>waits
<svg class=\"key\"><rect class=\"held\" width=\"12\" height=\"12\"/></svg>holds, with its token: its guard says so
<svg class=\"key\"><rect class=\"after\" width=\"12\" height=\"12\"/></svg>not asked any more, until it was released, lost or killed
<svg class=\"key\"><rect class=\"lost\" width=\"12\" height=\"12\"/></svg>noticed that it is lost; or: failed
<svg class=\"key\"><rect class=\"ok\" width=\"12\" height=\"12\"/></svg>succeeded
<svg class=\"key\"><rect class=\"unknown\" width=\"12\" height=\"12\"/></svg>nobody knows
<svg class=\"key\"><rect class=\"fault\" width=\"12\" height=\"12\"/></svg>a fault
<svg class=\"key\"><rect class=\"shown\" fill=\"none\" width=\"12\" height=\"12\"/></svg>part of a violation
</p><p>Point at a mark to read the event.</p>
";

/// Something at a time.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) from: Stamp,
    pub(super) to: Stamp,
    pub(super) class: &'static str,
    /// What stands in it, if there is room.
    pub(super) label: String,
    /// What is read when one points at it.
    pub(super) title: String,
}

/// A row of marks, or a title with none.
#[derive(Debug)]
pub(super) struct Row {
    name: String,
    marks: Option<Vec<Mark>>,
}

impl Row {
    pub(super) fn new(name: &str, marks: Vec<Mark>) -> Self {
        Self { name: name.into(), marks: Some(marks) }
    }

    pub(super) fn title(name: &str) -> Self {
        Self { name: name.into(), marks: None }
    }
}

/// Rows between two moments, in nanoseconds.
#[derive(Debug)]
pub(super) struct Drawing<'a> {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) width: f64,
    pub(super) rows: &'a [Row],
}

/// The room for names, and the height of a row and of the axis.
const NAMES: f64 = 190.0;
const ROW: f64 = 18.0;
const AXIS: f64 = 22.0;
/// The width of a letter, and the least width of a mark, so that it can be pointed at.
const LETTER: f64 = 6.5;
const LEAST: f64 = 2.0;

impl Drawing<'_> {
    fn x(&self, at: u64) -> f64 {
        let of = at.clamp(self.from, self.to) - self.from;
        NAMES + self.width * of as f64 / ((self.to - self.from).max(1)) as f64
    }

    /// The distance of two lines of the axis, in milliseconds: about ten of them to a page.
    fn step(&self) -> u64 {
        let millis = (self.to - self.from) as f64 / 1e6;
        let room = millis * 100.0 / self.width.max(1.0);
        let steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000];
        steps.into_iter().find(|step| *step as f64 >= room).unwrap_or(600_000)
    }

    fn mark(&self, f: &mut fmt::Formatter<'_>, mark: &Mark, top: f64) -> fmt::Result {
        if mark.to.at < self.from || mark.from.at > self.to {
            return Ok(());
        }
        let (left, right) = (self.x(mark.from.at), self.x(mark.to.at));
        let width = (right - left).max(LEAST);
        // What waits is thin, so that what is held stands out.
        let (top, height) = if mark.class == "wait" { (top + 7.0, 4.0) } else { (top + 2.0, ROW - 4.0) };
        let title = escape(&mark.title);
        writeln!(
            f,
            "<g><title>{title}</title><rect class=\"{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>",
            mark.class
        )?;
        let label = &mark.label;
        let room = label.chars().count() as f64 * LETTER;
        if !label.is_empty() && (width > room || matches!(mark.class, "fault" | "healed" | "died")) {
            writeln!(f, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", left + 2.0, top + 11.0, escape(label))?;
        }
        writeln!(f, "</g>")
    }
}

impl fmt::Display for Drawing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = (NAMES + self.width + 20.0, AXIS + ROW * self.rows.len() as f64 + 6.0);
        writeln!(
            f,
            "<div class=\"drawing\"><svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\">"
        )?;
        for (at, row) in self.rows.iter().enumerate() {
            let top = AXIS + ROW * at as f64;
            if row.marks.is_some() && at % 2 == 0 {
                writeln!(
                    f,
                    "<rect class=\"band\" x=\"0\" y=\"{top:.1}\" width=\"{width:.0}\" height=\"{ROW}\"/>"
                )?;
            }
        }
        let step = self.step() * 1_000_000;
        let mut at = self.from.div_ceil(step) * step;
        while at <= self.to {
            let x = self.x(at);
            writeln!(
                f,
                "<line class=\"line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{AXIS}\" y2=\"{height:.0}\"/>"
            )?;
            writeln!(f, "<text x=\"{x:.1}\" y=\"14\" text-anchor=\"middle\">{} s</text>", at as f64 / 1e9)?;
            at += step;
        }
        for (at, row) in self.rows.iter().enumerate() {
            let top = AXIS + ROW * at as f64;
            let class = if row.marks.is_some() { "name" } else { "title" };
            let indent = if row.marks.is_some() { 14.0 } else { 4.0 };
            let name = escape(&row.name);
            writeln!(f, "<text class=\"{class}\" x=\"{indent}\" y=\"{:.1}\">{name}</text>", top + 13.0)?;
            row.marks.iter().flatten().try_for_each(|mark| self.mark(f, mark, top))?;
        }
        writeln!(f, "</svg></div>")
    }
}

/// As it may stand in HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
