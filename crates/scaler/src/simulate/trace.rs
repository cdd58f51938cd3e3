//! What is simulated: which function is called when, and for how long each call runs.
//!
//! Two forms are read:
//! * Calls, one a line: `function,start,duration`, both in seconds. What `hearth record` writes.
//! * The invocations of the Azure Functions 2019 trace: `HashOwner,HashApp,HashFunction,Trigger,1,2,…,1440`, calls per minute of a day. When
//!   in the minute they come, and how long they take, is drawn.

use std::collections::BTreeMap;
use std::time::Duration;

use super::random::{Random, Spread};

/// A day, or a minute, of calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What it is called in the tables.
    pub name: String,
    /// Names of the functions; a call names one by its place here.
    pub functions: Vec<String>,
    /// The calls, in the order of their time.
    pub calls: Vec<Call>,
    /// From the first moment to the last; what happens after it is not counted.
    pub length: Duration,
}

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// When it comes, from the beginning of the trace.
    pub at: Duration,
    /// Of which function.
    pub function: usize,
    /// How long it runs.
    pub service: Duration,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct TraceError {
    /// From 1.
    pub line: usize,
    /// What is wrong there, and what is expected.
    pub what: String,
}

/// The first words of the header of a file of the Azure Functions 2019 trace.
const AZURE: &str = "HashOwner,HashApp,HashFunction,Trigger";

/// What a trace keeps after its last call, so that what is left warm is counted for every policy alike.
const AFTER: Duration = Duration::from_secs(60);

/// The header of a file of calls.
pub const HEADER: &str = "function,start,duration";

impl Trace {
    /// A trace of these calls, in order.
    #[must_use]
    pub fn new(name: &str, functions: Vec<String>, mut calls: Vec<Call>, length: Duration) -> Self {
        calls.sort_by_key(|call| (call.at, call.function));
        Self { name: name.to_owned(), functions, calls, length }
    }

    /// Reads either form. `durations` and `random` are for calls whose duration is not in the file.
    ///
    /// # Errors
    /// At the first line that cannot be read.
    pub fn parse(
        name: &str,
        text: &str,
        durations: &Spread,
        random: &mut Random,
    ) -> Result<Self, TraceError> {
        let trace = if text.starts_with(AZURE) {
            Self::azure(name, text, durations, random)?
        } else {
            Self::csv(name, text)?
        };
        if trace.calls.is_empty() {
            return Err(TraceError { line: 1, what: "there is no call in it".to_owned() });
        }
        Ok(trace)
    }

    fn csv(name: &str, text: &str) -> Result<Self, TraceError> {
        let mut names = Names::default();
        let mut calls = Vec::new();
        for (number, line) in lines(text) {
            if number == 1 && line.eq_ignore_ascii_case(HEADER) {
                continue;
            }
            let wrong = |what: &str| TraceError {
                line: number,
                what: format!("{what}; expected {HEADER}, as in hello,12.5,0.080"),
            };
            let mut fields = line.split(',').map(str::trim);
            let (Some(function), Some(start), Some(duration), None) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                return Err(wrong("not three fields"));
            };
            let at = seconds(start).ok_or_else(|| wrong("the start is no time in seconds"))?;
            let service = seconds(duration).ok_or_else(|| wrong("the duration is no time in seconds"))?;
            calls.push(Call { at, function: names.number(function), service });
        }
        let last = calls.iter().map(|call| call.at + call.service).max().unwrap_or_default();
        Ok(Self::new(name, names.in_order, calls, last + AFTER))
    }

    fn azure(name: &str, text: &str, durations: &Spread, random: &mut Random) -> Result<Self, TraceError> {
        let mut names = Names::default();
        let mut calls = Vec::new();
        let mut minutes = 0;
        for (number, line) in lines(text).skip(1) {
            let wrong = |what: String| TraceError { line: number, what };
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let [owner, app, function, _trigger, counts @ ..] = fields.as_slice() else {
                return Err(wrong(format!("expected {AZURE} and a count for each minute")));
            };
            let function = names.number(&format!("{owner}/{app}/{function}"));
            for (minute, count) in counts.iter().enumerate() {
                let count: u32 = count
                    .parse()
                    .map_err(|_| wrong(format!("minute {}: {count:?} is no count", minute + 1)))?;
                #[expect(clippy::cast_precision_loss, reason = "there are 1440 minutes in a day")]
                let from = minute as f64 * 60.0;
                for _ in 0..count {
                    let at = Duration::from_secs_f64(random.between(from, from + 60.0));
                    calls.push(Call { at, function, service: durations.draw(random) });
                }
            }
            minutes = minutes.max(counts.len());
        }
        let length = Duration::from_secs(60).saturating_mul(u32::try_from(minutes).unwrap_or(u32::MAX));
        Ok(Self::new(name, names.in_order, calls, length))
    }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

#[derive(Default)]
struct Names {
    in_order: Vec<String>,
    numbers: BTreeMap<String, usize>,
}

impl Names {
    fn number(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.in_order.len();
        self.in_order.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const TENTH: Spread = Spread { median: Duration::from_millis(100), sigma: 0.0 };

    fn parse(text: &str) -> Result<Trace, TraceError> {
        Trace::parse("t", text, &TENTH, &mut Random::new(1))
    }

    #[test]
    fn calls_are_read_in_any_order() {
        let trace = parse("function,start,duration\n# remark\nb,2.5,0.1\na, 1, 0.25\n\nb,0,1\n").unwrap();
        assert_eq!(trace.functions, ["b", "a"]);
        let at: Vec<_> = trace.calls.iter().map(|call| (call.at, call.function)).collect();
        assert_eq!(at, [(Duration::ZERO, 0), (1000 * MS, 1), (2500 * MS, 0)]);
        assert_eq!(trace.length, 62_600 * MS);
    }

    #[test]
    fn counts_per_minute_are_spread_over_it() {
        let text = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\no,a,f,http,2,0,1\no,a,g,timer,0,3,0\n";
        let trace = parse(text).unwrap();
        assert_eq!(trace.functions, ["o/a/f", "o/a/g"]);
        let minutes: Vec<_> =
            trace.calls.iter().map(|call| (call.at.as_secs() / 60, call.function)).collect();
        assert_eq!(minutes, [(0, 0), (0, 0), (1, 1), (1, 1), (1, 1), (2, 0)]);
        assert_eq!((trace.calls[0].service, trace.length), (100 * MS, 180_000 * MS));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let said = |text| parse(text).unwrap_err().to_string();
        assert_eq!(
            said("a,1,1\na,1\n"),
            "line 2: not three fields; expected function,start,duration, as in hello,12.5,0.080"
        );
        assert!(said("a,-1,1\n").starts_with("line 1: the start is no time in seconds"));
        assert!(said("a,1,x\n").starts_with("line 1: the duration is no time"));
        assert_eq!(said(""), "line 1: there is no call in it");
        let text = "HashOwner,HashApp,HashFunction,Trigger,1\no,a,f,http,-2\n";
        assert_eq!(said(text), "line 2: minute 1: \"-2\" is no count");
    }
}
