//! Plots as SVG, which read in light and in dark.

use std::fmt::Write as _;

use super::table::{amount, length};

/// Colours, for either scheme. The paper is drawn, so that a page of the other scheme does not matter.
const STYLE: &str = "<style>
svg { --paper: #ffffff; --ink: #1f2328; --soft: #59636e; --rule: #dde2e7;
  --coord: #0860ca; --floor: #7d8792; --other: #b35900; --c3: #1a7f37; --c4: #8250df; --c5: #cf222e; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #0d1117; --ink: #e6edf3; --soft: #9198a1; --rule: #2b323b;
    --coord: #58a6ff; --floor: #848d97; --other: #f0a050; --c3: #56d364; --c4: #bc8cff; --c5: #ff7b72; }
}
text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.title { font-size: 15px; font-weight: 600; } .soft { fill: var(--soft); font-size: 11px; } .group { font-weight: 600; }
.paper { fill: var(--paper); } .rule { stroke: var(--rule); } .end { text-anchor: end; } .middle { text-anchor: middle; }
.coord { fill: var(--coord); stroke: var(--coord); } .floor { fill: var(--floor); stroke: var(--floor); }
.other { fill: var(--other); stroke: var(--other); } .hollow { fill: var(--paper); stroke-width: 1.5; }
.span { stroke-width: 2; opacity: 0.6; } .curve { fill: none; stroke-width: 2; }
.s0 { fill: var(--coord); stroke: var(--coord); } .s1 { fill: var(--other); stroke: var(--other); }
.s2 { fill: var(--c3); stroke: var(--c3); } .s3 { fill: var(--c4); stroke: var(--c4); } .s4 { fill: var(--c5); stroke: var(--c5); }
.s5 { fill: var(--floor); stroke: var(--floor); } text.name { stroke: none; } .curve { fill: none; }
</style>
";

const WIDTH: f64 = 860.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 62.0;
const ROW: f64 = 21.0;

/// What the numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Microseconds: less is better.
    Micros,
    /// A number each second: more is better.
    Rate,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Micros => length(value),
            Self::Rate => format!("{}/s", amount(value)),
        }
    }
}

/// A row: a dot, and a hollow one at its p99.
#[derive(Debug, Clone)]
pub(super) struct Dot {
    pub(super) group: String,
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) tail: Option<f64>,
}

/// A curve: a name and points.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// From one power of ten to another one.
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = (f64::MAX, f64::MIN_POSITIVE);
        for value in values.filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        let low = low.min(high).log10().floor();
        let high = high.log10().ceil().max(low + 1.0);
        Self { low, high, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.max(f64::MIN_POSITIVE).log10() - self.low) / (self.high - self.low);
        self.from + (self.to - self.from) * part.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.low as i32..=self.high as i32).map(|power| 10f64.powi(power))
    }
}

fn begin(title: &str, subtitle: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\"><title>{0}</title>\n{STYLE}<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\" rx=\"8\"/>\n\
         <text class=\"title\" x=\"16\" y=\"26\">{0}</text>\n<text class=\"soft\" x=\"16\" y=\"44\">{1}</text>\n",
        escape(title),
        escape(subtitle)
    )
}

/// Whose dot it is, as its colour says.
fn class(name: &str) -> &'static str {
    match name {
        name if name.starts_with("coord") => "coord",
        name if name.starts_with("floor") => "floor",
        _ => "other",
    }
}

/// Dots in rows, in groups, on a logarithmic axis.
pub(super) fn dots(title: &str, subtitle: &str, unit: Unit, rows: &[Dot]) -> String {
    let groups = 1 + rows.windows(2).filter(|pair| pair[0].group != pair[1].group).count();
    let bottom = TOP + rows.len() as f64 * ROW + groups as f64 * 8.0;
    let mut svg = begin(title, subtitle, bottom + 34.0);
    let values = rows.iter().flat_map(|row| [Some(row.value), row.tail]).flatten();
    let axis = Axis::around(values, LEFT, WIDTH - RIGHT);
    for tick in axis.ticks() {
        let x = axis.at(tick);
        let _ = writeln!(
            svg,
            "<line class=\"rule\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\
             <text class=\"soft middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 18.0,
            unit.show(tick)
        );
    }
    let (mut y, mut group) = (TOP + ROW / 2.0, "");
    for row in rows {
        if row.group != group {
            if !group.is_empty() {
                y += 8.0;
            }
            group = &row.group;
            let _ =
                writeln!(svg, "<text class=\"group\" x=\"16\" y=\"{:.1}\">{}</text>", y + 4.0, escape(group));
        }
        dot(&mut svg, &axis, unit, row, y);
        y += ROW;
    }
    svg + "</svg>\n"
}

fn dot(svg: &mut String, axis: &Axis, unit: Unit, row: &Dot, y: f64) {
    let (class, x) = (class(&row.name), axis.at(row.value));
    let mut shown = unit.show(row.value);
    let _ = write!(
        svg,
        "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        LEFT - 12.0,
        y + 4.0,
        escape(&row.name)
    );
    if let Some(tail) = row.tail {
        let end = axis.at(tail);
        let _ = write!(
            svg,
            "<line class=\"{class} span\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{end:.1}\" y2=\"{y:.1}\"/>\
             <circle class=\"{class} hollow\" cx=\"{end:.1}\" cy=\"{y:.1}\" r=\"4\"/>"
        );
        let _ = write!(shown, " · {}", unit.show(tail));
    }
    let _ = writeln!(
        svg,
        "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>\
         <text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\">{shown}</text>",
        WIDTH - RIGHT + 12.0,
        y + 4.0
    );
}

/// Curves on two logarithmic axes.
pub(super) fn curves(
    title: &str,
    subtitle: &str,
    (x_name, y_name): (&str, &str),
    curves: &[Curve],
) -> String {
    const HEIGHT: f64 = 380.0;
    let (left, right, bottom) = (80.0, WIDTH - RIGHT, HEIGHT - 50.0);
    let mut svg = begin(title, subtitle, HEIGHT);
    let points = || curves.iter().flat_map(|curve| curve.points.iter());
    let across = Axis::around(points().map(|point| point.0), left, right);
    let up = Axis::around(points().map(|point| point.1), bottom, TOP);
    for tick in across.ticks() {
        let x = across.at(tick);
        let _ = writeln!(
            svg,
            "<line class=\"rule\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
             <text class=\"soft middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 18.0,
            amount(tick)
        );
    }
    for tick in up.ticks() {
        let y = up.at(tick);
        let _ = writeln!(
            svg,
            "<line class=\"rule\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\
             <text class=\"soft end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left - 8.0,
            y + 4.0,
            amount(tick)
        );
    }
    let _ = writeln!(
        svg,
        "<text class=\"soft middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text><text class=\"soft\" x=\"16\" y=\"{:.1}\">{}</text>",
        f64::midpoint(left, right),
        HEIGHT - 12.0,
        escape(x_name),
        TOP - 4.0,
        escape(y_name)
    );
    let mut labels: Vec<(f64, usize)> = Vec::new();
    for (at, curve) in curves.iter().enumerate() {
        let line: Vec<_> =
            curve.points.iter().map(|(x, y)| format!("{:.1},{:.1}", across.at(*x), up.at(*y))).collect();
        let _ = writeln!(svg, "<polyline class=\"s{at} curve\" points=\"{}\"/>", line.join(" "));
        for (x, y) in &curve.points {
            let (x, y) = (across.at(*x), up.at(*y));
            let _ = writeln!(svg, "<circle class=\"s{at}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>");
        }
        labels.extend(curve.points.last().map(|(_, y)| (up.at(*y), at)));
    }
    // Names stand beside the ends of their curves, one below the other.
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut last = f64::MIN;
    for (y, at) in labels {
        let y = y.max(last + 15.0);
        last = y;
        let _ = writeln!(
            svg,
            "<text class=\"s{at} name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            right + 10.0,
            y + 4.0,
            escape(&curves[at].name)
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_lie_in_the_order_of_their_values() {
        let dot = |name: &str, value| Dot {
            group: "a & b".into(),
            name: name.into(),
            value,
            tail: Some(value * 2.0),
        };
        let svg = dots("title", "", Unit::Micros, &[dot("coord", 30.0), dot("floor", 3_000.0)]);
        assert!(svg.contains("a &amp; b") && svg.contains("prefers-color-scheme: dark"));
        let at = |class: &str| {
            let (_, rest) = svg.split_once(&format!("<circle class=\"{class}\" cx=\"")).unwrap();
            rest.split('"').next().unwrap().parse::<f64>().unwrap()
        };
        assert!(LEFT < at("coord") && at("coord") < at("floor") && at("floor") < WIDTH - RIGHT);
        assert_eq!(svg.matches("<circle").count(), 4);
    }

    #[test]
    fn axes_end_at_powers_of_ten() {
        let axis = Axis::around([20.0, 700.0].into_iter(), 0.0, 100.0);
        assert_eq!(axis.ticks().collect::<Vec<_>>(), [10.0, 100.0, 1000.0]);
        assert!((axis.at(100.0) - 50.0).abs() < 1e-9);
        assert_eq!(Axis::around([10.0].into_iter(), 0.0, 1.0).ticks().count(), 2);
    }
}
