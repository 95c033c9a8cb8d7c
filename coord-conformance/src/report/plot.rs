//! Drawings of how values are spread, which read well on light and on dark pages.

use std::fmt::{self, Write};

use super::spread::Spread;

/// They bring their own ground, so that letters and ground always fit together.
const STYLE: &str = "<style>
text { font: 12px system-ui, sans-serif; fill: #24292f; } .small { font-size: 11px; fill: #57606a; }
.ground { fill: #ffffff; } .line { stroke: #d0d7de; } .sign { stroke: #57606a; stroke-dasharray: 4 3; }
.bar { fill: #2f7fd6; } .low { fill: #d1242f; } .half { stroke: #0a3069; stroke-width: 2; } .most { stroke: #bc4c00; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .small { fill: #9198a1; }
.ground { fill: #0d1117; } .line { stroke: #30363d; } .sign { stroke: #9198a1; }
.bar { fill: #4493f8; } .low { fill: #ff7b72; } .half { stroke: #cae8ff; } .most { stroke: #f0a63c; }
}
</style>
";

const NAMES: f64 = 170.0;
const WIDTH: f64 = 640.0;
const ROW: f64 = 44.0;
const TOP: f64 = 58.0;
const BINS: usize = 80;

/// A row for each name: how often which value was measured.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    /// What the axis counts.
    pub(super) unit: &'a str,
    /// A value that is of interest, and what it is.
    pub(super) sign: (f64, &'a str),
    pub(super) rows: Vec<(String, Vec<f64>)>,
}

impl Plot<'_> {
    fn range(&self) -> (f64, f64) {
        let values = || self.rows.iter().flat_map(|(_, values)| values).chain([&self.sign.0, &0.0]);
        let (min, max) =
            values().fold((f64::MAX, f64::MIN), |(min, max), value| (min.min(*value), max.max(*value)));
        (min, max.max(min + f64::EPSILON))
    }

    /// The distance of two lines of the axis.
    fn step(from: f64, to: f64) -> f64 {
        let rough = (to - from) / 8.0;
        let power = 10f64.powf(rough.log10().floor());
        [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * power)
            .find(|step| *step >= rough)
            .unwrap_or(rough)
    }
}

impl fmt::Display for Plot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = self.range();
        let x = |value: f64| NAMES + WIDTH * (value - from) / (to - from);
        let bottom = TOP + ROW * self.rows.len() as f64;
        let (width, height) = (NAMES + WIDTH + 30.0, bottom + 40.0);
        writeln!(
            f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">"
        )?;
        writeln!(
            f,
            "<title>{}</title>\n{STYLE}<rect class=\"ground\" width=\"100%\" height=\"100%\"/>",
            escape(self.title)
        )?;
        writeln!(f, "<text x=\"12\" y=\"22\" font-weight=\"bold\">{}</text>", escape(self.title))?;
        let key = [("half", "half of all are below"), ("most", "99 of 100 are below")];
        for (at, (class, text)) in key.into_iter().enumerate() {
            let left = NAMES + 170.0 * at as f64;
            writeln!(f, "<line class=\"{class}\" x1=\"{left}\" x2=\"{left}\" y1=\"32\" y2=\"44\"/>")?;
            writeln!(f, "<text class=\"small\" x=\"{}\" y=\"42\">{text}</text>", left + 6.0)?;
        }
        let step = Self::step(from, to);
        let mut tick = (from / step).ceil() * step;
        while tick <= to + step / 1e6 {
            let at = x(tick);
            writeln!(f, "<line class=\"line\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>")?;
            let label = if step < 1.0 { format!("{tick:.1}") } else { format!("{tick:.0}") };
            writeln!(
                f,
                "<text class=\"small\" x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
                bottom + 15.0
            )?;
            tick += step;
        }
        writeln!(
            f,
            "<text class=\"small\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            NAMES + WIDTH / 2.0,
            bottom + 32.0,
            escape(self.unit)
        )?;
        let at = x(self.sign.0);
        writeln!(f, "<line class=\"sign\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>")?;
        writeln!(
            f,
            "<text class=\"small\" x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            TOP - 3.0,
            escape(self.sign.1)
        )?;
        for (at, (name, values)) in self.rows.iter().enumerate() {
            let top = TOP + ROW * at as f64;
            f.write_str(&row(name, values, (from, to), top, x))?;
        }
        f.write_str("</svg>\n")
    }
}

fn row(name: &str, values: &[f64], (from, to): (f64, f64), top: f64, x: impl Fn(f64) -> f64) -> String {
    let mut row = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(row, "<text x=\"12\" y=\"{:.0}\">{}</text>", top + 18.0, escape(name));
    let _ = writeln!(
        row,
        "<text class=\"small\" x=\"12\" y=\"{:.0}\">{} measured</text>",
        top + 33.0,
        values.len()
    );
    let mut bins = [0usize; BINS];
    for value in values {
        bins[(((value - from) / (to - from) * BINS as f64) as usize).min(BINS - 1)] += 1;
    }
    // Roots, so that what is rare can be seen beside what is frequent.
    let most = bins.iter().copied().max().unwrap_or(0).max(1) as f64;
    let wide = WIDTH / BINS as f64;
    for (at, count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = (ROW - 8.0) * (*count as f64 / most).sqrt();
        let start = from + (to - from) * at as f64 / BINS as f64;
        let class = if start + (to - from) / BINS as f64 <= 0.0 { "low" } else { "bar" };
        let _ = writeln!(
            row,
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{count}</title></rect>",
            x(start),
            top + ROW - height,
            wide - 1.0,
        );
    }
    if let Some(spread) = Spread::of(values.iter().copied()) {
        for (class, value) in [("half", spread.p50), ("most", spread.p99)] {
            let at = x(value);
            let _ = writeln!(
                row,
                "<line class=\"{class}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                top + 6.0,
                top + ROW
            );
        }
    }
    let _ = writeln!(
        row,
        "<line class=\"line\" x1=\"{NAMES}\" x2=\"{}\" y1=\"{1}\" y2=\"{1}\"/>",
        NAMES + WIDTH,
        top + ROW
    );
    row
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_below_zero_stands_out() {
        let plot = |values: &[f64]| {
            let rows = vec![("a & b".to_owned(), values.to_vec())];
            Plot { title: "t", unit: "u", sign: (0.0, "zero"), rows }.to_string()
        };
        let good = plot(&[0.5, 1.0, 2.0]);
        assert!(good.contains("a &amp; b") && good.contains("3 measured") && !good.contains("class=\"low\""));
        assert_eq!(good.matches("class=\"bar\"").count(), 3);
        assert_eq!(plot(&[-0.5, 1.0]).matches("class=\"low\"").count(), 1);
        // None at all is a drawing too.
        assert!(plot(&[]).contains("0 measured"));
    }
}
