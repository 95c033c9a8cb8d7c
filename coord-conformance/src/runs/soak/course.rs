//! The samples of a soak, and whether anything grew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
};

use super::Sample;
use crate::history::Header;

/// How much resident memory a process may gain in an hour, in bytes.
const SLOPE: f64 = 1024.0 * 1024.0;
/// A slope is judged from so many seconds on: allocators keep what they had once.
const LONG: u64 = 1800;

/// The samples of a soak. Displayed, it is a table of what was in use at first and at last.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Course {
    /// What soaked.
    pub header: Header,
    /// One a round.
    pub samples: Vec<Sample>,
}

/// One thing that is measured, over all rounds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Measure {
    name: String,
    /// Seconds, and how much.
    values: Vec<(u64, u64)>,
    /// Whether it is memory, whose slope counts; of other things the level counts.
    memory: bool,
}

impl Course {
    pub(super) fn new(header: Header, samples: Vec<Sample>) -> Self {
        Self { header, samples }
    }

    /// Reads one from a file.
    ///
    /// # Errors
    /// What the file system says, and `InvalidData` for what is none.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut lines = BufReader::new(File::open(path)?).lines();
        let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let header = serde_json::from_str(&first)?;
        let samples = lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<io::Result<_>>()?;
        Ok(Self { header, samples })
    }

    /// Writes the samples to a file: JSON, one object a line, the header first.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(file, "{}", serde_json::to_string(&self.header)?)?;
        for sample in &self.samples {
            writeln!(file, "{}", serde_json::to_string(sample)?)?;
        }
        file.flush()
    }

    /// Those after the warm-up, in which caches fill: the first quarter.
    fn warm(&self) -> &[Sample] {
        &self.samples[self.samples.len() / 4..]
    }

    fn measures(&self) -> Vec<Measure> {
        let samples = self.warm();
        let Some(first) = samples.first() else { return Vec::new() };
        let of = |name: String, memory: bool, value: &dyn Fn(&Sample) -> u64| {
            let values = samples.iter().map(|sample| (sample.at, value(sample))).collect();
            Measure { name, values, memory }
        };
        let mut measures = Vec::new();
        for at in 0..first.workers.len() {
            let worker = |what: &str| format!("worker {}: {what}", at + 1);
            measures.push(of(worker("resident memory"), true, &|sample| sample.workers[at].resident));
            measures.push(of(worker("file descriptors"), false, &|sample| sample.workers[at].descriptors));
            measures.push(of(worker("tasks"), false, &|sample| sample.workers[at].tasks));
        }
        let names: BTreeSet<_> = samples.iter().flat_map(|sample| sample.kept.keys()).collect();
        for name in names {
            // A sample at which a server did not tell has none.
            let kept = |sample: &Sample| Some((sample.at, *sample.kept.get(name)?));
            let values = samples.iter().filter_map(kept).collect();
            measures.push(Measure { name: format!("kept: {name}"), values, memory: false });
        }
        measures
    }

    /// Whether all rounds were as they must be and nothing grew.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.growth().is_empty() && self.samples.iter().all(|sample| sample.violations.is_empty())
    }

    /// What grew: of each thing what it was and is.
    #[must_use]
    pub fn growth(&self) -> Vec<String> {
        if self.samples.len() < 4 {
            return vec!["there are too few rounds to say anything".into()];
        }
        self.measures().iter().filter_map(Measure::growth).collect()
    }

    /// How many rounds there were, operations (ok, failed, unknown), and faults by kind.
    #[must_use]
    pub fn totals(&self) -> (usize, [usize; 3], BTreeMap<String, usize>) {
        let (mut operations, mut faults) = ([0; 3], BTreeMap::new());
        for sample in &self.samples {
            operations.iter_mut().zip(sample.operations).for_each(|(sum, more)| *sum += more);
            for (kind, times) in &sample.faults {
                *faults.entry(kind.clone()).or_default() += times;
            }
        }
        (self.samples.len(), operations, faults)
    }
}

impl Measure {
    /// The medians of the first and the last fifth.
    fn ends(&self) -> (u64, u64) {
        let fifth = self.values.len().div_ceil(5);
        let median = |values: &[(u64, u64)]| {
            let mut values: Vec<_> = values.iter().map(|(_, value)| *value).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        (median(&self.values[..fifth]), median(&self.values[self.values.len() - fifth..]))
    }

    fn seconds(&self) -> u64 {
        let at = |value: Option<&(u64, u64)>| value.map_or(0, |(at, _)| *at);
        at(self.values.last()).saturating_sub(at(self.values.first()))
    }

    /// Bytes an hour, by least squares.
    fn slope(&self) -> f64 {
        let count = self.values.len() as f64;
        let mean = |of: &dyn Fn(&(u64, u64)) -> f64| self.values.iter().map(of).sum::<f64>() / count;
        let (at, much) = (mean(&|value| value.0 as f64), mean(&|value| value.1 as f64));
        let (mut above, mut below) = (0.0, 0.0);
        for value in &self.values {
            let off = value.0 as f64 - at;
            above += off * (value.1 as f64 - much);
            below += off * off;
        }
        if below == 0.0 { 0.0 } else { above / below * 3600.0 }
    }

    fn growth(&self) -> Option<String> {
        let (first, last) = self.ends();
        let grew = match self.memory {
            true => self.seconds() >= LONG && self.slope() > SLOPE,
            false => last > first,
        };
        grew.then(|| self.to_string())
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.ends();
        match self.memory {
            true => {
                let mib = |bytes: f64| bytes / 1024.0 / 1024.0;
                let [first, last] = [first, last].map(|bytes| mib(bytes as f64));
                write!(f, "{} | {first:.1} MiB | {last:.1} MiB | {:+.2} MiB/h", self.name, mib(self.slope()))
            }
            false => {
                write!(f, "{} | {first} | {last} | {:+}", self.name, last.cast_signed() - first.cast_signed())
            }
        }
    }
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| in use at rest | at first | at last | growth |")?;
        writeln!(f, "| --- | --- | --- | --- |")?;
        self.measures().iter().try_for_each(|measure| writeln!(f, "| {measure} |"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Vitals;

    /// Eight hours of twenty rounds an hour, in which this much more is in use each time.
    fn course(resident: u64, tasks: u64, keys: u64) -> Course {
        let sample = |round: u64| Sample {
            round,
            at: round * 180,
            operations: [10, 1, 0],
            faults: [("stop".to_owned(), 2)].into(),
            workers: vec![Vitals {
                resident: 10_000_000 + round * resident,
                descriptors: 9,
                tasks: 5 + round * tasks,
            }],
            kept: [("store".to_owned(), 7 + round * keys)].into(),
            violations: Vec::new(),
        };
        Course::new(Header::new("none", 1), (0..160).map(sample).collect())
    }

    #[test]
    fn what_grows_is_told() {
        assert_eq!(course(0, 0, 0).growth(), [""; 0]);
        // A megabyte an hour is 52,429 bytes a round.
        assert_eq!(course(50_000, 0, 0).growth(), [""; 0]);
        let one = |course: Course| {
            let grown = course.growth();
            assert_eq!(grown.len(), 1, "{grown:?}");
            grown.into_iter().next().unwrap_or_default()
        };
        assert!(one(course(60_000, 0, 0)).starts_with("worker 1: resident memory | "));
        assert!(one(course(0, 1, 0)).starts_with("worker 1: tasks | "));
        assert!(one(course(0, 0, 1)).starts_with("kept: store | "));
        let (rounds, operations, faults) = course(0, 0, 0).totals();
        assert_eq!((rounds, operations, faults["stop"]), (160, [1600, 160, 0], 320));
    }

    #[test]
    fn what_is_not_told_each_time_is_measured() {
        let mut course = course(0, 0, 0);
        for sample in &mut course.samples {
            match sample.round % 3 {
                0 => sample.kept.clear(),
                _ => drop(sample.kept.insert("watches".into(), sample.round)),
            }
        }
        let grown = course.growth();
        assert_eq!(grown.len(), 1, "{grown:?}");
        assert!(grown[0].starts_with("kept: watches | "), "{grown:?}");
        assert!(course.to_string().contains("kept: store | 7 | 7 | +0"), "{course}");
    }

    #[test]
    fn a_course_survives_its_file() {
        let path = std::env::temp_dir().join(format!("coord-course-{}", std::process::id()));
        let course = course(1, 2, 3);
        course.write(&path).unwrap();
        let read = Course::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((read.samples, read.header.backend), (course.samples, course.header.backend));
    }
}
