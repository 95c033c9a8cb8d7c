//! Histories that are stored: JSON, one object a line; first a [`Header`], then the events in the order in which they began.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Event, Op, Outcome};

/// The format that is written, and the only one that is read.
const FORMAT: u32 = 1;

/// Where a history comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Header {
    /// Which format the file has.
    pub format: u32,
    /// The backend's name.
    pub backend: String,
    /// What decided all choices.
    pub seed: u64,
    /// How the run was asked for.
    pub settings: BTreeMap<String, String>,
    /// What took part: this library, the server, the system.
    pub versions: BTreeMap<String, String>,
}

impl Header {
    /// The header of a history of this backend.
    #[must_use]
    pub fn new(backend: impl Into<String>, seed: u64) -> Self {
        let (settings, versions) = (BTreeMap::new(), BTreeMap::new());
        Self { format: FORMAT, backend: backend.into(), seed, settings, versions }
    }
}

/// A history with its header, as it is stored. Its time begins with zero.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recording {
    /// Where it comes from.
    pub header: Header,
    /// What happened.
    pub events: Vec<Event>,
}

impl Recording {
    /// A recording of these events; of questions to guards and deliveries only those that a checker looks at.
    #[must_use]
    pub fn new(header: Header, events: Vec<Event>) -> Self {
        let mut events = without_repetitions(events);
        events.sort_by_key(|event| (event.from, event.to));
        let start = events.iter().map(|event| event.from.at).min().unwrap_or_default();
        for event in &mut events {
            for stamp in [&mut event.from, &mut event.to] {
                stamp.at -= start;
            }
        }
        Self { header, events }
    }

    /// Reads one from a file.
    ///
    /// # Errors
    /// What the file system says, and `InvalidData` with the line that cannot be understood.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut lines = BufReader::new(File::open(path)?).lines().enumerate();
        let first = lines.next().map_or_else(|| Ok(String::new()), |(_, line)| line)?;
        let header: Header = parse(0, &first)?;
        if header.format != FORMAT {
            let message = format!("it has format {}, and this program reads {FORMAT}", header.format);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let events = lines.map(|(at, line)| parse(at, &line?)).collect::<io::Result<_>>()?;
        Ok(Self { header, events })
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        line(&mut file, &self.header)?;
        self.events.iter().try_for_each(|event| line(&mut file, event))?;
        file.flush()
    }

    /// The events in the order in which they ended, as checkers take them.
    #[must_use]
    pub fn ended(&self) -> Vec<Event> {
        let mut events = self.events.clone();
        events.sort_by_key(|event| event.to);
        events
    }

    /// How many operations succeeded, failed, and have an unknown outcome. What a client asked of itself or was told by
    /// others is no operation.
    #[must_use]
    pub fn outcomes(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        let operation = |event: &&Event| {
            matches!(
                event.op,
                Op::Acquire { .. }
                    | Op::Release { .. }
                    | Op::Leader { .. }
                    | Op::Register { .. }
                    | Op::Deregister { .. }
                    | Op::Members { .. }
                    | Op::Write { .. }
                    | Op::Read { .. }
                    | Op::Put { .. }
                    | Op::Push { .. }
                    | Op::Receive { .. }
                    | Op::Ack { .. }
                    | Op::Nack { .. }
            )
        };
        for event in self.events.iter().filter(operation) {
            counts[match event.outcome {
                Outcome::Ok => 0,
                Outcome::Fail(_) => 1,
                Outcome::Unknown(_) => 2,
            }] += 1;
        }
        counts
    }

    /// How often each kind of fault struck.
    #[must_use]
    pub fn faults(&self) -> BTreeMap<&str, usize> {
        let mut faults = BTreeMap::new();
        for event in &self.events {
            if let Op::Fault { kind } = &event.op {
                *faults.entry(kind.as_str()).or_default() += 1;
            }
        }
        faults
    }
}

fn parse<T: DeserializeOwned>(at: usize, line: &str) -> io::Result<T> {
    let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {error}", at + 1));
    serde_json::from_str(line).map_err(wrong)
}

fn line(file: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *file, value)?;
    file.write_all(b"\n")
}

/// Of the questions whether something is held that were answered with yes, the last one counts, and those after a no: there
/// are hundreds of them a second.
fn without_repetitions(events: Vec<Event>) -> Vec<Event> {
    let key = |event: &Event| {
        let (attempt, token) = match event.op {
            Op::Valid { attempt } | Op::Lost { attempt } => (attempt, 0),
            Op::InHand { token, .. } => (0, token),
            _ => return None,
        };
        Some((event.client.clone(), event.object.clone(), attempt, token))
    };
    let (mut last, mut lost) = (HashMap::new(), HashMap::new());
    for event in &events {
        let Some(key) = key(event) else { continue };
        if matches!(event.op, Op::Lost { .. }) {
            let first = lost.entry(key).or_insert(event.from);
            *first = event.from.min(*first);
        } else {
            let latest = last.entry(key).or_insert(event.from);
            *latest = event.from.max(*latest);
        }
    }
    let needed = |event: &Event| match key(event) {
        Some(key) if !matches!(event.op, Op::Lost { .. }) => {
            last.get(&key) == Some(&event.from) || lost.get(&key).is_some_and(|lost| *lost < event.from)
        }
        _ => true,
    };
    events.into_iter().filter(needed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::{self, made::*};

    #[test]
    fn what_is_left_out_changes_no_judgement() {
        let mut events = vec![acquire("a", 1, 0, 10, 1)];
        events.extend((11..40).map(|when| valid("a", 1, when)));
        let held = Recording::new(Header::new("none", 1), events.clone());
        assert_eq!(held.events.len(), 2);
        let with = |more: &[Event]| {
            let events = [&events[..], more].concat();
            let recording = Recording::new(Header::new("none", 1), events.clone());
            let judged = [checkers::check(&recording.ended()), checkers::check(&events)];
            let [short, long] = judged.map(|judged| judged.map_err(|violation| violation.message));
            assert_eq!(short, long);
            (recording.events.len(), short)
        };
        let (kept, refused) = with(&[acquire("b", 2, 5, 30, 2), valid("b", 2, 31)]);
        assert_eq!((kept, refused.is_err()), (4, true));
        assert!(with(&[lost("a", 1, 45), acquire("b", 2, 5, 50, 2), valid("b", 2, 51)]).1.is_ok());
        assert!(with(&[lost("a", 1, 45), valid("a", 1, 46)]).1.is_err());
    }
}
